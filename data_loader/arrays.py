"""NumPy files larger than memory: .npy files are mapped, and only the rows of a batch are read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_loader import BaseDataLoader
from data_loader.engine.changes import log
from data_loader.engine.facts import class_facts, count_classes
from data_loader.engine.files.whole_batches import WholeBatches
from data_loader.engine.learned import Scale, learn_scale, learned_before, training_samples
from data_loader.engine.paths import place
from data_loader.engine.texts.plain_text import by_number, shown
from data_loader.engine.unlabeled import Unlabeled
from utils.errors import DataError, UsageError


class ArrayDataLoader(BaseDataLoader):
    """Rows of .npy files: inputs [B, ...] and classes int64 [B], or numbers float32 [B, ...].

    Numbers with fractions and true or false become float32; integers int64, but for inputs that are standardized.

    inputs, targets: a .npy file [N, ...], or a folder of such files, one after another in the order of their names
        (2 before 10). valid_inputs, valid_targets, test_inputs, test_targets: the same for validation and testing.
    standardize: subtract the mean of each number of a row, and divide by the standard deviation. They are learned
        from up to 100,000 training rows, not from validation rows, and saved as facts.
    class_names: names of the targets 0, 1, 2, ... (default: these numbers).
    facts: those of the training data, for testing: nothing is learned then.
    predict: .npy files of inputs, or folders of them, for predict.py.
    """

    def __init__(
        self,
        inputs: str,
        targets: str,
        batch_size: int = 64,
        training: bool = True,
        valid_inputs: str | None = None,
        valid_targets: str | None = None,
        test_inputs: str | None = None,
        test_targets: str | None = None,
        standardize: bool = False,
        class_names: list[str] | None = None,
        facts: dict[str, Any] | None = None,
        predict: list[str] | None = None,
        **kwargs,
    ):
        if not training and predict is None and (test_inputs is None or test_targets is None):
            raise UsageError("data_loader: there is no test data; set test_inputs and test_targets to its files")
        if (valid_inputs is None) != (valid_targets is None):
            raise UsageError("data_loader: give both valid_inputs and valid_targets, or none of the two")
        valid = None
        if predict is not None:
            rows = ArrayRows(predict, None)
            self.unlabeled = Unlabeled(range(len(rows)), [], {})
        elif training:
            rows = ArrayRows([inputs], [targets])
            if valid_inputs is not None and valid_targets is not None:
                valid = ArrayRows([valid_inputs], [valid_targets])
        else:
            rows = ArrayRows([str(test_inputs)], [str(test_targets)])
        super().__init__(rows, batch_size, valid_dataset=valid, **kwargs)
        learned = learned_before(facts, "arrays", training or not (standardize or rows.has_classes))
        if learned is None:
            fitted_on = training_samples(self)
            scale = learn_scale(rows.inputs.rows, fitted_on, str(rows.inputs)) if standardize else None
            learned = {"scale": scale, "classes": None}
            if rows.labels is not None:
                learned["classes"] = class_names or rows.classes(fitted_on)
        for part in (rows, valid):
            if part is not None:
                part.read_by(learned)
        self.facts = {"arrays": learned, "in_features": int(np.prod(rows.inputs.shape))}
        if learned["classes"] is not None:
            self.facts |= class_facts(learned["classes"])
            count_classes(self)
        are_integers = rows.inputs.dtype.kind in "iu" and not standardize
        note = " (they stay integers, as embeddings need them; standardize: true makes float32)" if are_integers else ""
        log.info(f"{rows.inputs}: {len(rows):,} rows {list(rows.inputs.shape)} of {rows.inputs.dtype}{note}")


class ArrayRows(WholeBatches):
    """Rows of mapped files; whole batches are read at once. `read_by` comes first."""

    def __init__(self, inputs: Sequence[str], targets: Sequence[str] | None):
        """targets: None: every target is 0 and unused."""
        self.inputs, self.targets = MappedFiles(inputs), None if targets is None else MappedFiles(targets)
        if self.targets is not None and len(self.inputs) != len(self.targets):
            raise DataError(
                f"{self.inputs} has {len(self.inputs):,} rows and {self.targets} {len(self.targets):,}; give files "
                f"with a target for each row of the inputs"
            )
        self.scale: Scale | None = None

    @property
    def has_classes(self) -> bool:
        """Whole numbers, [N] or [N, 1]."""
        return self.targets is not None and self.targets.dtype.kind in "iub" and self.targets.shape in ((), (1,))

    @property
    def labels(self) -> np.ndarray | None:
        """The classes [N], mapped; None if the targets are no classes."""
        return self.targets.whole().reshape(-1) if self.targets is not None and self.has_classes else None

    def classes(self, rows: np.ndarray) -> list[str]:
        """0, 1, 2, ... up to the largest class that these rows have."""
        assert self.labels is not None
        found = np.unique(self.labels[rows])
        if len(found) < 2:
            raise DataError(
                f"{self.targets}: all training rows are of one class, {found[0]}; there is nothing to learn"
            )
        if found[-1] > len(rows):
            raise DataError(
                f"{self.targets} has classes up to {found[-1]:,} in {len(rows):,} training rows; number them 0, 1, 2, "
                f"... (numpy.unique(y, return_inverse=True)), or save numbers to predict as floats"
            )
        if found[0] > 0:
            log.warning(
                f"{self.targets}: classes are numbered from 0, but the smallest of the training rows is {found[0]}"
            )
        return [str(i) for i in range(int(found[-1]) + 1)]

    def read_by(self, learned: dict[str, Any]) -> None:
        """Apply what was learned from the training rows. Raises DataError for a class that these do not have, and
        inputs of another shape."""
        labels, classes, scale = self.labels, learned["classes"], learned["scale"]
        if self.targets is not None and (labels is None) != (classes is None):
            what = "numbers" if labels is None else "classes"
            raise DataError(f"{self.targets} has {what} ({self.targets.dtype}), other than the training data")
        if self.targets is not None and labels is not None and (wrong := (labels < 0) | (labels >= len(classes))).any():
            row = int(wrong.argmax())
            raise DataError(
                f"{self.targets.place(row)}: the class {labels[row]}; the {len(classes)} classes of the training rows "
                f"are {shown(classes)}, numbered from 0. Correct it, or list more class_names"
            )
        if scale is not None and np.shape(scale["mean"]) != self.inputs.shape:
            raise DataError(
                f"{self.inputs} has rows {list(self.inputs.shape)}, those of the training data are "
                f"{list(np.shape(scale['mean']))}; give files of one shape"
            )
        self.scale = None if scale is None else Scale(scale)

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitems__(self, indices: Sequence[int] | np.ndarray) -> tuple[Tensor, Tensor]:
        index = np.asarray(indices)
        inputs = self.inputs.rows(index)
        targets = np.zeros(len(index), np.int64) if self.targets is None else self.targets.rows(index)
        targets = targets.reshape(-1).astype(np.int64) if self.has_classes else targets
        return _tensor(inputs if self.scale is None else self.scale(inputs)), _tensor(targets)


def _tensor(rows: np.ndarray) -> Tensor:
    if rows.dtype == np.uint64 and rows.max() > np.iinfo(np.int64).max:
        raise ValueError(f"it has {rows.max()}, which int64 cannot hold")
    return torch.from_numpy(rows.astype(np.float32 if rows.dtype.kind in "fb" else np.int64))


class MappedFiles:
    """.npy files, and all those in folders, as one array [N, *shape]. Each process maps them for itself."""

    changes_by_itself = ("_maps", "_whole")

    def __init__(self, given: Sequence[str]):
        """Raises DataError if a file is missing, cut off, empty, of another dtype or shape, or has no numbers."""
        self.given, self.paths = list(given), [path for one in given for path in _npy_files(place(one))]
        headers = [_header(file) for file in self.paths]
        self.shape, self.dtype = headers[0][0][1:], headers[0][1]
        for file, (shape, dtype) in zip(self.paths, headers, strict=True):
            if (shape[1:], dtype) != (self.shape, self.dtype):
                raise DataError(
                    f"{file} has rows {list(shape[1:])} of {dtype}, but {self.paths[0].name} {list(self.shape)} of "
                    f"{self.dtype}; give files of one dtype, whose rows have one shape"
                )
        self.ends = np.cumsum([shape[0] for shape, _ in headers])
        self._maps: dict[int, np.ndarray] = {}  # by the number of the file
        self._whole: np.ndarray | None = None

    def __getstate__(self) -> dict[str, Any]:
        """For workers: the paths, not what the files hold."""
        return {**vars(self), "_maps": {}, "_whole": None}

    def __str__(self) -> str:
        return shown(self.given)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """A copy of these rows: [B, *shape]"""
        if len(self.paths) == 1:
            return np.asarray(self._map(0)[indices])
        files = np.searchsorted(self.ends, indices, side="right")
        found = np.empty((len(indices), *self.shape), self.dtype)
        for number in np.unique(files).tolist():
            here = files == number
            start = self.ends[number - 1] if number else 0
            found[here] = self._map(number)[indices[here] - start]
        return found

    def whole(self) -> np.ndarray:
        """All rows: mapped if they are in one file, else in memory."""
        if self._whole is None:
            maps = [self._map(number) for number in range(len(self.paths))]
            self._whole = maps[0] if len(maps) == 1 else np.concatenate(maps)
        return self._whole

    def place(self, row: int) -> str:
        number = int(np.searchsorted(self.ends, row, side="right"))
        return f"{self.paths[number]}, row {row - (int(self.ends[number - 1]) if number else 0)}"

    def _map(self, number: int) -> np.ndarray:
        if number not in self._maps:
            self._maps[number] = np.load(self.paths[number], mmap_mode="r", allow_pickle=False)
        return self._maps[number]


def _npy_files(path: Path) -> list[Path]:
    if not path.exists():
        raise DataError(f"there is no file or folder {path.resolve()}; set inputs and targets in data_loader.args")
    files = [path]
    if path.is_dir():
        files = sorted(path.glob("*.npy"), key=lambda file: by_number(file.stem))
    if not files:
        raise DataError(f"there are no .npy files in {path.resolve()}; numpy.save writes them")
    return files


def _header(file: Path) -> tuple[tuple[int, ...], np.dtype]:
    """The shape and dtype of a .npy file, which is checked."""
    try:
        with open(file, "rb") as opened:
            version = np.lib.format.read_magic(opened)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(opened)
            has = file.stat().st_size - opened.tell()
    except (ValueError, OSError) as e:
        raise DataError(f"{file} is no .npy file: {e}; write it by numpy.save") from e
    if dtype.kind not in "fiub":
        raise DataError(f"{file} is of dtype {dtype}; give floats, integers or booleans: array.astype(numpy.float32)")
    if not shape or not shape[0]:
        raise DataError(f"{file} has the shape {list(shape)}, so no rows; give an array [N, ...]")
    needed = int(np.prod(shape)) * dtype.itemsize
    if has != needed:
        raise DataError(
            f"{file} is cut off or damaged: {has:,} bytes after its header, an array {list(shape)} of {dtype} has "
            f"{needed:,}; write or copy it again"
        )
    return shape, dtype
