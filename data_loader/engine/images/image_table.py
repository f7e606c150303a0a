"""A table of images: a CSV file with a column of file names, and columns of labels or numbers."""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from data_loader.engine.changes import log
from data_loader.engine.facts import class_facts
from data_loader.engine.images.image_files import TEST, TRAIN, VALID, Sample, counts, is_image, normal
from data_loader.engine.texts.plain_text import read_csv
from utils.config.files import did_you_mean, nearest
from utils.errors import DataError, UsageError

T = TypeVar("T")
SHOWN = 5  # missing files that an error lists
SHOWN_LABELS = 10
DIGITS = 18  # of an int64
INTEGER = re.compile(rf"-?\d{{1,{DIGITS}}}")
WHOLE = re.compile(r"(-?\d+)\.0*")
NUMBER = re.compile(r"-?\d+(\.\d+)?")
LARGEST = torch.finfo(torch.float32).max
LOGICAL = {"true": 1.0, "false": 0.0}  # as pandas writes them
PARTS = {"train": TRAIN, "valid": VALID, "test": TEST}  # values of a column that splits the rows


class Table:
    """A CSV file in memory, separated by commas, semicolons or tabs, with the names of its columns in row 1.

    columns: the values of each column, without spaces around them. rows: the number of each row in the file.
    """

    def __init__(self, path: Path, columns: dict[str, list[str]], rows: list[int]) -> None:
        self.path, self.columns, self.rows = path, columns, rows

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, name: str) -> list[str]:
        if name not in self.columns:
            raise DataError(
                f"{self.path} has no column {name!r}{did_you_mean(nearest(name, self.columns))}; it has: "
                f"{', '.join(self.columns)}"
            )
        return self.columns[name]

    def part(self, name: str, wanted: str) -> "Table":
        """The rows whose column `name` says train, valid or test, as `wanted` does; also val, dev and the like."""
        parts = {value: part for part, values in PARTS.items() for value in values}
        found = self.parsed(name, lambda value: parts[value.lower()], "train, valid or test")
        return self.at([i for i, part in enumerate(found) if part == wanted])

    def at(self, places: Sequence[int]) -> "Table":
        columns = {name: [values[i] for i in places] for name, values in self.columns.items()}
        return Table(self.path, columns, [self.rows[i] for i in places])

    def parsed(self, name: str, parse: Callable[[str], T], expected: str) -> list[T]:
        """parse(value) for each row. Raises DataError for the first value that it does not accept."""
        found = []
        for row, value in zip(self.rows, self.column(name), strict=True):
            try:
                found.append(parse(value))
            except (ValueError, KeyError):
                raise DataError(
                    f"{self.path}, row {row}, column {name!r}: {repr(value) if value else 'nothing'}; give {expected}"
                ) from None
        return found

    def names(self, column: str, known: Sequence[str] | None, is_list: str | None = None) -> list[str]:
        """The labels in a column, each once: numbers by size, others by name. `known` where these are given: then no
        others are allowed. is_list: what separates several labels in one value."""
        if known is not None:
            expected = f"one of the labels of the training data: {', '.join(known)}"
            self.parsed(column, lambda value: [known.index(label) for label in split(value, is_list)], expected)
            return list(known)
        values = self.parsed(column, lambda value: split(value, is_list), "a label")
        found = {label for labels in values for label in labels}
        are_numbers = all(NUMBER.fullmatch(label) for label in found)
        return sorted(found, key=lambda label: (float(label), label)) if are_numbers else sorted(found)

    def whole_numbers(self, name: str, known: Sequence[str] | None) -> "Table":
        """The same rows with labels 1.0, 2.0 as 1, 2, if all are whole; pandas writes a column with gaps so. `known`
        labels stay as they are."""
        values, found = self.column(name), set(self.column(name)).difference(known or ())
        short = {value: match[1] for value in found if (match := WHOLE.fullmatch(value))}
        if not all(value in short or INTEGER.fullmatch(value) for value in found):
            return self
        return Table(self.path, {**self.columns, name: [short.get(value, value) for value in values]}, self.rows)

    def numbers(self, columns: Sequence[str], expected: str, low: float, high: float) -> Tensor:
        """float32 [N, K] of the numbers in K columns."""

        def number(value: str) -> float:
            parsed = LOGICAL.get(value.lower())
            parsed = float(value) if parsed is None else parsed
            if not low <= parsed <= high:  # nor nan
                raise ValueError
            return parsed

        return torch.tensor([self.parsed(name, number, expected) for name in columns], dtype=torch.float32).T

    def files(self, name: str, folder: Path, suffix: str) -> list[str]:
        """The path of the image in each row: folder/NAME, with `suffix` or any image's where NAME has none.

        Raises DataError that names the rows whose images are missing.
        """
        finder, found, missing = Finder(folder, suffix), [], []
        for row, value in zip(self.rows, self.column(name), strict=True):
            path = finder.find(value) if value else None
            if path is None:
                missing.append(f"  row {row}: {value!r}")
            found.append(path or "")
        if missing:
            lines = missing[:SHOWN] + ["  ..."] * (len(missing) > SHOWN)
            raise DataError(
                f"{self.path}, column {name!r}: {len(missing):,} of {len(self):,} images are not in {folder.resolve()}"
                f"{f' (nor with {suffix} after the name)' if suffix else ''}:\n" + "\n".join(lines) + "\nRemove the "
                "rows, or set data_loader.args.image_folder or suffix"
            )
        return found


class Rows(NamedTuple):
    """What a table has to train or to test."""

    samples: list[Sample]
    valid: list[Sample] | None
    columns: dict[str, list[Any]]  # values per sample, by name
    facts: dict[str, Any]


class Columns(NamedTuple):
    """Which columns are the image and the target."""

    image: str
    label: str | None
    labels: str | list[str] | None
    targets: str | list[str] | None
    separator: str
    folder: Path  # of the images
    suffix: str

    def check(self) -> None:
        given = [name for name in ("label", "labels", "targets") if getattr(self, name) not in (None, [])]
        if len(given) != 1:
            raise UsageError(
                f"data_loader: {' and '.join(given) or 'none of label, labels and targets'} given; give one of them: "
                f"label (a column of classes), labels (several labels for each image) or targets (columns of numbers)"
            )

    def samples(self, table: Table, known: Sequence[str] | None) -> tuple[list[Sample], dict[str, Any]]:
        """(path, target) of each row, and the facts. known: the class names of the training, in testing."""
        paths = table.files(self.image, self.folder, self.suffix)
        if self.label is not None:
            table = table.whole_numbers(self.label, known)
            names = table.names(self.label, known)
            number = {name: i for i, name in enumerate(names)}
            classes = [number[value] for value in table.column(self.label)]
            samples = list(zip(paths, classes, strict=True))
            log.info(f"{table.path}: {counts(samples, names)}")
            return samples, class_facts(names)
        if self.labels is not None:
            names, values = self._several(table, known)
            per_label = [int(n) for n in (values > 0.5).sum(dim=0)]
            each = ", ".join(f"{name} {n:,}" for name, n in zip(names[:SHOWN_LABELS], per_label, strict=False))
            log.info(f"{table.path}: {len(paths):,} images with {len(names)} labels ({each})")
            facts = class_facts(names) | {"class_counts": per_label}
            return list(zip(paths, values, strict=True)), facts
        names = [self.targets] if isinstance(self.targets, str) else list(self.targets or ())
        values = table.numbers(names, "a number", -LARGEST, LARGEST)
        low, high = values.amin(dim=0).tolist(), values.amax(dim=0).tolist()
        each = ", ".join(f"{name} {a:g} to {b:g}" for name, a, b in zip(names, low, high, strict=True))
        log.info(f"{table.path}: {len(paths):,} images with {each}")
        return list(zip(paths, values, strict=True)), {"num_classes": len(names), "target_names": names}

    def _several(self, table: Table, known: Sequence[str] | None) -> tuple[list[str], Tensor]:
        """The names of K labels, and [N, K] of 0 and 1."""
        if not isinstance(self.labels, str):
            names = list(self.labels or ())
            return names, table.numbers(names, "0 or 1", 0, 1)
        names = table.names(self.labels, known, self.separator)
        number = {name: i for i, name in enumerate(names)}
        values = torch.zeros(len(table), len(names))
        for row, value in zip(values, table.column(self.labels), strict=True):
            row[[number[label] for label in split(value, self.separator)]] = 1
        return names, values


class Tables(NamedTuple):
    """Where the rows for training, validation and testing are."""

    data_dir: Path
    table: str
    valid: str | None
    test: str | None
    split: str | None  # a column of `table`
    encoding: str

    def read(self, columns: Columns, training: bool, known: Sequence[str] | None) -> Rows:
        """known: the class names of the training, in testing. Raises DataError with file, row and column."""
        columns.check()
        if not training:
            rows, facts = columns.samples(self._test(), known)
            return Rows(rows, None, {}, facts)
        table = self._train()
        samples, facts = columns.samples(table, None)
        valid = self._valid()
        held_out = columns.samples(valid, facts.get("class_names"))[0] if valid else None
        return Rows(samples, held_out, {name: _numbers(v) for name, v in table.columns.items()}, facts)

    def _table(self, name: str) -> Table:
        return read_table(self.data_dir / name, self.encoding)

    def _train(self) -> Table:
        table = self._table(self.table)
        return self._part(table, "train") if self.split else table

    def _valid(self) -> Table | None:
        if self.valid:
            return self._table(self.valid)
        if not self.split:
            return None
        part = self._table(self.table).part(self.split, "valid")
        return part if len(part) else None

    def _test(self) -> Table:
        if self.test:
            return self._table(self.test)
        if self.split:
            return self._part(self._table(self.table), "test")
        raise DataError(
            f"{self.data_dir / self.table} has no test rows; give a table of test images, "
            f"data_loader.args.test_table=test.csv, or a column that says train, valid or test, "
            f"data_loader.args.split=COLUMN (test_table={self.table} would test on the images that train)"
        )

    def _part(self, table: Table, part: str) -> Table:
        rows = table.part(self.split or "", part)
        if not len(rows):
            raise DataError(f"{table.path}: no row says {part!r} in column {self.split!r}")
        return rows


def _numbers(values: list[str]) -> list[Any]:
    """The values as integers or as numbers, if all are; those with too many digits stay as they are."""
    if all(INTEGER.fullmatch(value) for value in values):
        return [int(value) for value in values]
    try:
        return [float(value) for value in values] if max(map(len, values)) <= DIGITS else values
    except ValueError:
        return values


def read_table(path: Path, encoding: str = "utf-8") -> Table:
    """Raises DataError that names the row of what is wrong."""
    if not path.is_file():
        raise DataError(f"There is no table {path.resolve()}; set data_loader.args.data_dir and table to a CSV file")
    found = read_csv(path, encoding)
    columns = {name: [value.strip() for value in values] for name, values in found.columns.items()}
    filled = [i for i, row in enumerate(zip(*columns.values(), strict=True)) if any(row)]  # table programs add others
    return Table(path, columns, found.rows).at(filled)


def split(value: str, separator: str | None) -> list[str]:
    """The labels in a value; ["the value"] without a separator."""
    if value.lower() == "nan" or not (value or separator):
        raise ValueError
    return [value] if separator is None else [label.strip() for label in value.split(separator) if label.strip()]


class Finder:
    """Finds files by name, also without their suffix; each folder is listed once."""

    def __init__(self, folder: Path, suffix: str) -> None:
        self.folder, self.suffix = str(folder), f".{suffix}" if suffix.isalnum() else suffix
        self._folders: dict[str, tuple[dict[str, str], dict[str, list[str]]]] = {}

    def find(self, name: str) -> str | None:
        inside, base = os.path.split(os.path.join(self.folder, name.replace("\\", "/")))
        if inside not in self._folders:
            self._folders[inside] = self._list(inside)
        names, stems = self._folders[inside]
        base = normal(base)
        found = names.get(base) or (names.get(base + self.suffix) if self.suffix else None)
        if found is None and not self.suffix and len(stems.get(base, ())) == 1:
            found = stems[base][0]
        return None if found is None else os.path.join(inside, found)

    @staticmethod
    def _list(folder: str) -> tuple[dict[str, str], dict[str, list[str]]]:
        """The names in a folder, and the names of images by stem."""
        names = os.listdir(folder) if os.path.isdir(folder) else []
        stems: dict[str, list[str]] = {}
        for name in filter(is_image, names):
            stems.setdefault(normal(os.path.splitext(name)[0]), []).append(name)
        return {normal(name): name for name in names}, stems
