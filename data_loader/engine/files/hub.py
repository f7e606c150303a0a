"""Splits of Hugging Face data sets: where they are, and what their columns have."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_loader.engine.images.image_files import readable
from data_loader.engine.paths import place
from data_loader.engine.texts.plain_text import no_column
from data_loader.engine.unlabeled import Unlabeled, row_names, unlabeled_files
from utils.config.files import did_you_mean, nearest
from utils.errors import DataError, UsageError
from utils.process.group import barrier, is_local_main

READERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".arrow": "arrow"}
PACKED = (".gz", ".bz2", ".xz", ".zst")
SEVERAL = "dataset_dict.json"  # in a saved folder of several splits
ACCEPTED = "numbers, texts, class labels, images, and lists of numbers"


def read_split(path: Any, subset: str | None, split: str, cache_dir: str | None) -> Any:
    """A split as a datasets.Dataset, mapped into memory. The first process of a machine converts or downloads it.

    Raises DataError that says what to download if it is not there, and which splits there are.
    """
    datasets, path = _library(), _placed(path)
    if not is_local_main():
        barrier()
    try:
        found = _read(datasets, path, subset, split, cache_dir)
    except (LookupError, ValueError, OSError, datasets.exceptions.DatasetsError) as e:
        if isinstance(path, str) and not _is_local(path) and isinstance(e, OSError):
            raise DataError(
                f"the data set '{path}' is not in the cache and cannot be downloaded: {_first_line(e)}; where there is "
                f"a network, run python -c \"from datasets import load_dataset; load_dataset('{path}'"
                f"{f', {subset!r}' if subset else ''}).save_to_disk('data/{Path(path).name}')\", and set "
                f"data_loader.args.path=data/{Path(path).name}"
            ) from e
        cause = f" ({_first_line(e.__cause__)})" if e.__cause__ is not None else ""
        raise DataError(
            f"the split '{split}' of {path} cannot be read: {_first_line(e)}{cause}; set path, subset and split in "
            f"data_loader.args to what there is"
        ) from e
    if is_local_main():
        barrier()
    if not len(found):
        raise DataError(f"the split '{split}' of {path} has no rows; give another split, or check how it was made")
    return found


def read_unlabeled(
    given: list[str], inputs: list[str], kind: str | None, split: str, cache_dir: str | None
) -> tuple[Any, Unlabeled]:
    """Rows without targets, as a datasets.Dataset, and their names: files, or a saved folder (its `split`, if it has
    several); for a model of images (`kind` of its inputs) image files and folders of them; for one of texts, texts.
    """
    datasets = _library()
    may_be_paths = all("\n" not in one and len(one.encode()) < 256 for one in given)  # others are texts
    if not may_be_paths or not all(_is_file(one) or _is_saved(one) for one in given):
        if kind == "image":
            found = unlabeled_files(given, readable())
            images = datasets.Features({inputs[0]: datasets.Image()})
            return datasets.Dataset.from_dict({inputs[0]: found.paths}, features=images), found
        if kind == "text" and len(inputs) == 1:
            from data_loader.engine.texts.text_files import read_unlabeled as read_texts  # may be deleted

            texts = datasets.Features({inputs[0]: datasets.Value("string")})
            rows = read_texts(given, inputs[0], None, None, "utf-8")  # texts, .txt files, or folders of them
            found = Unlabeled(rows.places, [], {inputs[0]: rows.texts}, rows.bad)
            return datasets.Dataset.from_dict({inputs[0]: rows.texts}, features=texts), found
    path = given[0] if len(given) == 1 else given
    part = split if isinstance(path, str) and Path(path, SEVERAL).exists() else "train"
    data = read_split(path, None, part, cache_dir)
    columns = {name: AsText(data, name) for name, feature in data.features.items() if _of_value(feature)}
    return data, Unlabeled(row_names(columns, len(data)), [], columns)


class AsText(Sequence[str]):
    """A column of a mapped data set, whose values become text when they are asked for; "" where there is none."""

    def __init__(self, data: Any, name: str) -> None:
        self.column = data.data.column(name)

    def __len__(self) -> int:
        return len(self.column)

    def __getitem__(self, index: Any) -> Any:
        return _as_text(self.column[int(index)].as_py())

    def __iter__(self) -> Iterator[str]:
        return map(_as_text, self.column.to_pylist())


def _as_text(value: Any) -> str:
    return "" if value is None else str(value)


def _library() -> Any:
    try:
        import datasets
    except ImportError as e:
        raise UsageError(
            "data_loader: it needs the library datasets, which is not installed: make extra NAME=huggingface"
        ) from e
    return datasets


def _placed(path: Any) -> Any:
    """Without ~ and $VARIABLE."""
    if isinstance(path, Mapping):
        return {name: _placed(one) for name, one in path.items()}
    if isinstance(path, str):
        return str(place(path)) if path.startswith(("~", "$")) else path
    return [_placed(one) for one in path]


def _read(datasets: Any, path: Any, subset: str | None, split: str, cache_dir: str | None) -> Any:
    if isinstance(path, str) and _is_saved(path):
        saved = datasets.load_from_disk(path)
        if isinstance(saved, datasets.DatasetDict):
            if split not in saved:
                raise ValueError(f"it has the splits {', '.join(saved)}{did_you_mean(nearest(split, saved))}")
            return saved[split]
        if split != "train":
            raise ValueError("it is one data set without splits; save a DatasetDict, or use validation_split")
        return saved
    if isinstance(path, str) and not _is_file(path):
        return datasets.load_dataset(path, subset, split=split, cache_dir=cache_dir)
    files = dict(path) if isinstance(path, Mapping) else {"train": path}
    first = next(iter(files.values()))
    suffix = _suffix(first if isinstance(first, str) else first[0])
    if suffix not in READERS:
        raise ValueError(f"files of the type '{suffix}' are not known; give {', '.join(READERS)}")
    more = {"sep": "\t"} if suffix == ".tsv" else {}
    return datasets.load_dataset(READERS[suffix], data_files=files, split=split, cache_dir=cache_dir, **more)


def _suffix(path: str) -> str:
    """.csv of a.csv and of a.csv.gz"""
    name = path.lower()
    for packed in PACKED:
        name = name.removesuffix(packed)
    return Path(name).suffix


def _is_file(path: str) -> bool:
    return _suffix(path) in READERS and not Path(path).is_dir()


def _is_saved(path: str) -> bool:
    return Path(path, "state.json").exists() or Path(path, SEVERAL).exists()


def _is_local(path: str) -> bool:
    return _is_file(path) or Path(path).exists()


def _first_line(error: BaseException | None) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")


# --- columns


class Columns(NamedTuple):
    """The columns that are read of a split, and what they have (`kind_of_column`)."""

    inputs: list[str]
    targets: list[str]
    kind: str  # of the inputs
    target_kind: str
    one_target: bool  # and not a list of one


class Wanted:
    """Which columns of a split are read."""

    def __init__(self, input: str | list[str], target: str | list[str], task: str | None):
        self.inputs = [input] if isinstance(input, str) else list(input)
        self.targets = [target] if isinstance(target, str) else list(target)
        self.one_target, self.task = isinstance(target, str), task
        if not self.inputs or not self.targets or set(self.inputs) & set(self.targets):
            raise UsageError(
                f"data_loader: input is {self.inputs} and target {self.targets}; give each at least one column, and "
                f"none to both"
            )

    def columns(self, data: Any, place: str, with_targets: bool = True) -> Columns:
        """place: what the split is called in messages."""
        targets = self.targets if with_targets else []
        kinds = {name: kind_of_column(data, name, place) for name in (*self.inputs, *targets)}
        found = {kinds[name] for name in self.inputs}
        found = {"number" if kind in ("integer", "class", "bool") else kind for kind in found}
        if len(found) > 1 or (len(self.inputs) > 1 and found & {"image", "list"}):
            pairs = ", ".join(f"{name}: {kinds[name]}" for name in self.inputs)
            raise UsageError(
                f"data_loader: input has the columns {pairs}; give one, or several texts, or several numbers"
            )
        target_kind = self._target_kind(kinds) if with_targets else "none"
        return Columns(self.inputs, targets, found.pop(), target_kind, self.one_target)

    def _target_kind(self, kinds: Mapping[str, str]) -> str:
        found = {kinds[name] for name in self.targets}
        if self.one_target and found <= {"class", "text", "bool", "integer"} and self.task != "regression":
            return "class"
        if found == {"list"} and self.one_target:
            return "list"
        if found <= {"number", "integer", "bool"} and self.task != "classification":
            return "number"
        pairs = ", ".join(f"{name}: {kinds[name]}" for name in self.targets)
        raise UsageError(
            f"data_loader: target has the columns {pairs}, and task is {self.task}; give a column of classes, or "
            f"columns of numbers"
        )


def kind_of_column(data: Any, name: str, place: str) -> str:
    """What a column has: image, class, text, list, bool, integer or number. Raises DataError for anything else."""
    if name not in data.features:
        raise no_column(f"{place},", name, list(data.features))
    feature = data.features[name]
    kind = type(feature).__name__
    if kind in ("Image", "ClassLabel"):
        return {"Image": "image", "ClassLabel": "class"}[kind]
    if kind in ("List", "LargeList", "Sequence"):
        if _of_value(getattr(feature, "feature", None)) in ("integer", "number"):
            return "list"
    elif (found := _of_value(feature)) is not None:
        return found
    raise DataError(
        f"{place}: the column '{name}' is of type {feature}; {ACCEPTED} can be read: give another column, "
        f"or convert this one first (Dataset.map)"
    )


def _of_value(feature: Any) -> str | None:
    dtype = getattr(feature, "dtype", None)
    if type(feature).__name__ != "Value" or not isinstance(dtype, str):
        return None
    if dtype in ("string", "large_string"):
        return "text"
    if dtype == "bool":
        return "bool"
    return {"int": "integer", "uin": "integer", "flo": "number"}.get(dtype[:3])
