"""Data sets of Hugging Face: of the hub or its cache, saved folders, and JSON, CSV or Parquet files of any size.

The library `datasets` reads them: make extra NAME=huggingface. It keeps rows in Arrow files that are mapped into
memory, so that a data set may be larger than that; files of other formats are converted once, into its cache.
"""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data_loader import BaseDataLoader
from data_loader.engine.augmentation import Transform, of_image
from data_loader.engine.changes import log
from data_loader.engine.facts import class_facts
from data_loader.engine.images.decode import ImageFile
from data_loader.engine.images.in_memory import NormalizeBatch
from data_loader.engine.texts.learned import class_numbers, learn_classes, learn_scale
from data_loader.engine.texts.plain_text import shown
from data_loader.engine.texts.tokens import Ragged, Unit, encode, learn
from utils.config.files import did_you_mean, nearest
from utils.errors import DataError, UsageError
from utils.process.group import barrier, is_local_main

READERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".arrow": "arrow"}
IGNORED = -100  # what follows a list of labels that is shorter than others of its batch
ACCEPTED = "numbers, texts, class labels, images, and lists of numbers"
Task = Literal["classification", "regression"]


class HuggingFaceDataLoader(BaseDataLoader):
    """Rows of a data set: inputs from one column or several, and classes int64 [B] or numbers float32 [B].

    path: a name on the hub, a folder that `save_to_disk` wrote, or files by their pattern (data/*.parquet), also as a
        mapping from split: {train: a.csv, test: b.csv}. subset: its configuration, if it has several.
    split, valid, test: which splits train, validate and test; without valid, use validation_split.
    input: an image -> uint8 [B, 3, H, W], normalized by mean and std after all transforms; numbers -> float32 [B, F],
        standardized by what was learned of the training rows; texts -> tokens int64 [B, T], those of several columns
        joined by a newline; lists of integers -> int64 [B, T], 0 where one is shorter; other lists -> float32 [B, F].
    target: class labels, text, true or false, integers -> classes; numbers with fractions -> float32 [B], [B, K] of
        several columns; lists of integers -> int64 [B, T], -100 where one is shorter.
    task: regression, for a target of integers that are no classes.
    tokens, ngrams, vocab_size, max_length, tokenizer: of texts, as TextDataLoader has them (text.py).
    facts: those of the training data, for testing: nothing is learned then.
    """

    def __init__(
        self,
        path: str | list[str] | dict[str, str | list[str]],
        input: str | list[str],
        target: str | list[str],
        batch_size: int = 64,
        training: bool = True,
        subset: str | None = None,
        split: str = "train",
        valid: str | None = None,
        test: str = "test",
        task: Task | None = None,
        mean: tuple[float, ...] = (0.5,),
        std: tuple[float, ...] = (0.5,),
        tokens: Unit = "characters",
        ngrams: tuple[int, int] = (1, 4),
        vocab_size: int | None = None,
        max_length: int = 1000,
        tokenizer: str | None = None,
        cache_dir: str | None = None,
        facts: dict[str, Any] | None = None,
        **kwargs,
    ):
        learned = (facts or {}).get("hugging_face")
        if not training and learned is None:
            raise UsageError(
                "data_loader: rows are read for testing by what was learned of the training rows, which is missing; "
                "give facts=loader.facts of the training loader (test.py takes them from the checkpoint)"
            )
        wanted = Wanted(input, target, task)
        part = split if training else test
        rows = wanted.rows(read_split(path, subset, part, cache_dir), f"{path}, split '{part}'")
        valid_rows = None
        if training and valid is not None:
            valid_rows = wanted.rows(read_split(path, subset, valid, cache_dir), f"{path}, split '{valid}'")
        of_images: dict[str, Any] = {}
        if rows.kind == "image":
            of_images["batch_transform"] = NormalizeBatch(mean, std, kwargs.get("transforms"))
        super().__init__(rows, batch_size, valid_dataset=valid_rows, **of_images, **kwargs)
        fitted_on = np.sort(self.samples(np.arange(len(self.samples))))
        if learned is None:
            learned = {"scale": None, "text": None, "classes": None}
            if rows.kind == "text":
                options = (tokens, vocab_size, 1, ngrams, False, "NFC", max_length, tokenizer)
                learned["text"] = learn(rows.texts_of(fitted_on), *options)
            elif rows.kind == "number":
                learned["scale"] = rows.scale(fitted_on)
            if rows.codes is not None:
                learned["classes"] = rows.classes(fitted_on)
        for each in (rows, self.dataset, self.eval_dataset, self.valid_dataset):  # with transforms, these are copies
            if each is not None:
                each.encode(learned)
        labels = rows.labels[fitted_on] if training and rows.labels is not None else None
        self.facts = _facts(rows, learned, labels)
        log.info(f"{rows.place}: {len(rows):,} rows; input: {rows.kind}, target: {rows.target_kind}")


def _facts(rows: "Rows", learned: dict[str, Any], labels: np.ndarray | None) -> dict[str, Any]:
    """What fills the model's parameters, and `hugging_face`, all that was learned."""
    facts: dict[str, Any] = {"hugging_face": learned}
    if learned["text"] is not None:
        facts |= {"vocab_size": learned["text"]["vocab_size"]}
    if rows.kind == "number":
        facts |= {"in_features": len(rows.inputs), "num_numbers": len(rows.inputs), "category_sizes": []}
    if learned["classes"] is not None:
        facts |= class_facts(learned["classes"], None if labels is None else torch.from_numpy(labels.astype(np.int64)))
    return facts


# --- finding the data


def read_split(path: Any, subset: str | None, split: str, cache_dir: str | None) -> Any:
    """A split as a datasets.Dataset, mapped into memory. The first process of a machine converts or downloads it.

    Raises DataError that says what to download if it is not there, and which splits there are.
    """
    try:
        import datasets
    except ImportError as e:
        raise UsageError(
            "data_loader: it needs the library datasets, which is not installed: make extra NAME=huggingface"
        ) from e
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


def _read(datasets: Any, path: Any, subset: str | None, split: str, cache_dir: str | None) -> Any:
    if isinstance(path, str) and (Path(path, "state.json").exists() or Path(path, "dataset_dict.json").exists()):
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
    suffix = Path(first if isinstance(first, str) else first[0]).suffix.lower()
    if suffix not in READERS:
        raise ValueError(f"files of the type '{suffix}' are not known; give {', '.join(READERS)}")
    more = {"sep": "\t"} if suffix == ".tsv" else {}
    return datasets.load_dataset(READERS[suffix], data_files=files, split=split, cache_dir=cache_dir, **more)


def _is_file(path: str) -> bool:
    return Path(path).suffix.lower() in READERS and not Path(path).is_dir()


def _is_local(path: str) -> bool:
    return _is_file(path) or Path(path).exists()


def _first_line(error: BaseException | None) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")


# --- rows


class Wanted:
    """Which columns of a split are read."""

    def __init__(self, input: str | list[str], target: str | list[str], task: Task | None):
        self.inputs = [input] if isinstance(input, str) else list(input)
        self.targets = [target] if isinstance(target, str) else list(target)
        self.one_target, self.task = isinstance(target, str), task
        if not self.inputs or not self.targets or set(self.inputs) & set(self.targets):
            raise UsageError(
                f"data_loader: input is {self.inputs} and target {self.targets}; give each at least one column, and "
                f"none to both"
            )

    def rows(self, data: Any, place: str) -> "Rows":
        """place: what the split is called in messages."""
        kinds = {name: _kind(data, name, place) for name in (*self.inputs, *self.targets)}
        found = {kinds[name] for name in self.inputs}
        found = {"number" if kind in ("integer", "class", "bool") else kind for kind in found}
        if len(found) > 1 or (len(self.inputs) > 1 and found & {"image", "list"}):
            pairs = ", ".join(f"{name}: {kinds[name]}" for name in self.inputs)
            raise UsageError(
                f"data_loader: input has the columns {pairs}; give one, or several texts, or several numbers"
            )
        target_kind = self._target_kind(kinds)
        rows = ImageRows if found == {"image"} else BatchRows
        return rows(data, place, self.inputs, self.targets, found.pop(), target_kind, self.one_target)

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


class Rows(Dataset):
    """Rows of a data set, read from mapped files when they are needed. `encode` comes first.

    Workers are sent the names of the files.
    """

    changes_by_itself = ("data", "features")  # the library's own objects

    def __init__(
        self,
        data: Any,
        place: str,
        inputs: list[str],
        targets: list[str],
        kind: str,
        target_kind: str,
        one_target: bool,
    ) -> None:
        self.place = place
        self.features = data.features
        self.inputs, self.targets, self.kind, self.target_kind = inputs, targets, kind, target_kind
        self.one_target = one_target
        self.data = self._prepared(data.with_format("arrow"))  # a mapped table
        for name in [*(() if kind == "text" else inputs), *targets]:
            self._check_missing(name)
        self.class_names: list[str] = []  # of the classes in this split, and which one each row has
        self.codes = self._codes(targets[0]) if target_kind == "class" else None
        self.labels = self.codes  # until `encode`
        self.learned: dict[str, Any] = {}

    def _prepared(self, data: Any) -> Any:
        return data

    def encode(self, learned: dict[str, Any]) -> None:
        """Read rows by what was learned of the training rows. Raises DataError for a class that these do not have."""
        self.learned = learned
        if self.codes is None:
            return
        self.labels = class_numbers(
            self.class_names,
            self.codes,
            learned["classes"],
            lambda row: f"{self.place}, row {row}, column '{self.targets[0]}'",
        )

    # what is learned of the training rows

    def classes(self, rows: np.ndarray) -> list[str]:
        """The names of a column of class labels, or else of the classes that these rows have."""
        assert self.codes is not None
        if hasattr(self.features[self.targets[0]], "names"):
            return list(self.class_names)
        return learn_classes(self.class_names, self.codes, rows, f"{self.place}, column '{self.targets[0]}'")

    def scale(self, rows: np.ndarray) -> dict[str, Any]:
        try:
            return learn_scale(lambda chosen: self._numbers(self._table(chosen), self.inputs), rows)
        except ValueError as e:
            raise DataError(f"{self.place}: {e}; correct it, or remove the row") from e

    def texts_of(self, rows: np.ndarray, chunk: int = 1000) -> list[str]:
        """Of all these rows, in memory while the vocabulary is learned."""
        parts = (self._texts(self._table(rows[i : i + chunk])) for i in range(0, len(rows), chunk))
        return [text for part in parts for text in part]

    # samples

    def __len__(self) -> int:
        return len(self.data)

    def column(self, name: str) -> np.ndarray:
        """A column by row, for `group`, `stratify` and `weights`: [N]; `lengths`: of texts or lists, for `bucket`."""
        import pyarrow.compute as pc

        if name == "lengths" and name not in self.features:
            of = pc.list_value_length if self.kind == "list" else pc.utf8_length
            lengths = [of(self.data.data.column(one)).fill_null(0).to_numpy() for one in self.inputs]
            return np.sum(lengths, axis=0)
        return np.array(self.data.data.column(name).to_pylist())

    def _table(self, index: np.ndarray) -> Any:
        """A pyarrow.Table of these rows, in memory."""
        return self.data[index.tolist()]

    def _target(self, table: Any, index: np.ndarray) -> Tensor:
        if self.labels is not None:
            return torch.from_numpy(self.labels[index].astype(np.int64))
        if self.target_kind == "list":
            return self._lists(table, self.targets[0], index, IGNORED)
        numbers = torch.from_numpy(self._numbers(table, self.targets).astype(np.float32))
        return numbers[:, 0] if self.one_target else numbers

    def _numbers(self, table: Any, names: list[str]) -> np.ndarray:
        """float64 [B, K]"""
        return np.stack([table.column(name).to_numpy().astype(np.float64) for name in names], axis=1)

    def _texts(self, table: Any) -> list[str]:
        columns = [table.column(name).to_pylist() for name in self.inputs]
        return ["\n".join(text or "" for text in texts) for texts in zip(*columns, strict=True)]

    def _lists(self, table: Any, name: str, index: np.ndarray, fill: int) -> Tensor:
        column = table.column(name).combine_chunks()
        values = column.flatten().to_numpy(zero_copy_only=False)
        if values.dtype.kind in "iub":
            ends = np.cumsum([len(row) for row in column])
            return torch.from_numpy(Ragged(values, ends).padded(np.arange(len(column)), fill))
        lengths = np.array([len(row) for row in column])
        if (lengths != lengths[0]).any():
            row = index[int((lengths != lengths[0]).argmax())]
            raise ValueError(
                f"row {row}, column '{name}' has another number of values than row {index[0]} ({lengths[0]}); lists of "
                f"numbers with fractions must be equally long"
            )
        return torch.from_numpy(values.astype(np.float32)).view(len(column), -1)

    # checks, before training

    def _check_missing(self, name: str) -> None:
        column = self.data.data.column(name)
        if column.null_count:
            row = int(column.is_null().to_numpy().argmax())
            raise DataError(
                f"{self.place}, row {row}, column '{name}': no value, and {column.null_count:,} rows in all have none; "
                f"remove them, or fill them in (TableDataLoader does so for tables that fit into memory)"
            )

    def _codes(self, name: str) -> np.ndarray:
        """Which of `names` each row has, int [N]."""
        column, feature = self.data.data.column(name), self.features[name]
        if hasattr(feature, "names"):
            self.class_names = [str(label) for label in feature.names]
            codes = column.to_numpy()
            if ((codes < 0) | (codes >= len(self.class_names))).any():
                row = int(((codes < 0) | (codes >= len(self.class_names))).argmax())
                raise DataError(
                    f"{self.place}, row {row}, column '{name}': the label {codes[row]} is none of the "
                    f"{len(self.class_names)} classes {shown(self.class_names)}; -1 means that there is no "
                    f"label: give a split that has labels"
                )
            return codes
        encoded = column.dictionary_encode().unify_dictionaries().combine_chunks()
        self.class_names = [str(value) for value in encoded.dictionary.to_pylist()]
        return encoded.indices.to_numpy()


class BatchRows(Rows):
    """Numbers, texts and lists: whole batches at once."""

    uses_sample_keys = True

    def __getitems__(self, indices: Sequence[int] | np.ndarray) -> tuple[Tensor, Tensor]:
        index = np.asarray(indices)
        table = self._table(index)
        if self.kind == "text":
            texts = encode(self._texts(table), self.learned["text"])
            return torch.from_numpy(texts.padded(np.arange(len(index)))), self._target(table, index)
        if self.kind == "list":
            return self._lists(table, self.inputs[0], index, 0), self._target(table, index)
        scale = self.learned["scale"]
        numbers = (self._numbers(table, self.inputs) - np.array(scale["mean"])) / np.array(scale["std"])
        return torch.from_numpy(numbers.astype(np.float32)), self._target(table, index)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        inputs, targets = self.__getitems__([index])
        return inputs[0], targets[0]


class ImageRows(Rows):
    """Images, decoded when a transform needs their pixels, one by one."""

    transforms: list[Transform] = []

    def _prepared(self, data: Any) -> Any:
        import datasets

        return data.cast_column(self.inputs[0], datasets.Image(decode=False))

    def with_transforms(self, transforms: Sequence[Transform]) -> "ImageRows":
        """The same images, each passed through these transforms."""
        other = copy.copy(self)
        other.transforms = list(transforms)
        return other

    def __getitem__(self, index: int) -> tuple[Any, Tensor]:
        table = self._table(np.array([index]))
        image = table.column(self.inputs[0])[0].as_py()
        with ImageFile(image["path"] if image["bytes"] is None else image["bytes"]) as file:
            return of_image(self.transforms, file), self._target(table, np.array([index]))[0]


def _kind(data: Any, name: str, place: str) -> str:
    """What a column has: image, class, text, list, bool, integer or number. Raises DataError for anything else."""
    if name not in data.features:
        raise DataError(
            f"{place}, has no column '{name}'{did_you_mean(nearest(name, data.features))}; it has "
            f"{shown(list(data.features))}"
        )
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
