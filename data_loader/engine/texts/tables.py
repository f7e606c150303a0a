"""Reads CSV and Parquet files with a row per sample, by polars; errors name the file, the row and the column."""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_loader.engine.changes import log
from data_loader.engine.texts.plain_text import decoded, header_of, no_column, rows_and_separator, split_rows
from utils.errors import DataError, UsageError

WRITTEN_OTHERWISE = r"^[-+]?[$€£₩]?\d+([.,' ]\d{3})*([.,]\d+)?\s?[%€₩]?$"  # and no number to Python
WHOLE = r"^(-?\d+)\.0+$"
MOST_CLASSES = 20  # of a target of whole numbers; one with more is a regression


def whole(name: str) -> str:
    """1 of 1.0, as `Table.texts` has it: an older checkpoint learned the names as they were written."""
    return re.sub(WHOLE, r"\1", name)


@dataclass(frozen=True)
class Table:
    """The rows of a file. In `data`, text is stripped and missing values are null."""

    path: Path
    data: Any  # polars.DataFrame
    rows: np.ndarray  # the number of each row in the file, for messages: int64 [N]
    first: int = 1  # that of the first row
    bad: tuple[tuple[int, str], ...] = ()  # rows that are left out, by their number in the file, and why

    def __len__(self) -> int:
        return len(self.rows)

    def part(self, which: np.ndarray) -> "Table":
        """which: bool [N]"""
        return replace(self, data=self.data.filter(which), rows=self.rows[which])

    def with_target(self, target: str) -> "Table":
        """The rows that have a target; says how many have none."""
        there = self.series(target).is_not_null().to_numpy()
        if not there.any():
            raise DataError(f"{self.path}: the target '{target}' is missing in all rows")
        if not there.all():
            first = int(self.rows[~there][0])
            log.warning(
                f"{self.path}: {int((~there).sum()):,} of {len(self):,} rows have no target '{target}' and are left "
                f"out (the first is row {first})"
            )
        return self.part(there)

    def with_any_target(self, target: str, value: Any) -> "Table":
        """The same rows with one value as the target of all: for prediction."""
        import polars as pl

        return replace(self, data=self.data.with_columns(pl.lit(value).alias(target)))

    def of_numbers(self, names: Iterable[str]) -> "Table":
        """Without the rows that have text in one of these columns: they are `bad`."""
        bad: dict[int, str] = {}
        for name in names:
            _, wrong = self._read_numbers(name)
            bad = {row: self._no_number(row, name) for row in np.flatnonzero(wrong).tolist()} | bad
        if not bad:
            return self
        if len(bad) == len(self):
            raise DataError(bad[min(bad)])
        kept = self.part(~np.isin(np.arange(len(self)), list(bad)))
        return replace(kept, bad=(*self.bad, *((int(self.rows[row]), why) for row, why in sorted(bad.items()))))

    def as_text(self) -> dict[str, list[str]]:
        """All columns, "" where a value is missing."""
        import polars as pl

        columns = self.data.columns
        return {n: self.data[n].cast(pl.String, strict=False).fill_null("").to_list() for n in columns}

    def series(self, name: str) -> Any:
        """A column; DataError: there is none of this name."""
        if name not in self.data.columns:
            raise no_column(str(self.path), name, self.data.columns)
        return self.data[name]

    def place(self, row: int, name: str) -> str:
        return f"{self.path}, row {self.rows[row]}, column '{name}'"

    def is_numeric(self, name: str) -> bool:
        """Does it hold numbers? Text does if most of it parses as numbers. DataError: it has no values at all."""
        import polars as pl

        values = self.series(name)
        there = len(values) - values.null_count()
        if not there:
            raise DataError(f"{self.path}: the column '{name}' has no values; leave it out: drop: ['{name}']")
        if values.dtype != pl.String:
            return bool(values.dtype.is_numeric())
        read = values.cast(pl.Float64, strict=False)
        return 2 * (len(read) - read.null_count()) > there

    def is_classes(self, name: str) -> bool:
        """Is a target of classes: text, or few whole numbers that come again and again."""
        if not self.is_numeric(name):
            return True
        read, wrong = self._read_numbers(name)
        if wrong.any():
            return False  # numbers() names the row
        values = read.drop_nulls()
        few = values.n_unique() <= min(MOST_CLASSES, len(values) // 2)
        return few and bool((values == values.round()).all())

    def numbers(self, name: str) -> np.ndarray:
        """float64 [N], NaN where the value is missing. Raises DataError for text and infinity."""
        read, wrong = self._read_numbers(name)
        if wrong.any():
            raise DataError(self._no_number(int(wrong.argmax()), name))
        return np.array(read.fill_null(float("nan")).to_numpy())

    def _read_numbers(self, name: str) -> tuple[Any, np.ndarray]:
        """A column as floats, null where a value is missing, and where it has text or infinity: bool [N]."""
        import polars as pl

        values = self.series(name)
        if not (values.dtype.is_numeric() or values.dtype in (pl.String, pl.Boolean)):
            raise self._of_no_use(name, values.dtype)
        read = values.cast(pl.Float64, strict=False)
        return read, (values.is_not_null() & (read.is_null() | read.is_infinite().fill_null(False))).to_numpy()

    def check_words(self, name: str) -> None:
        """Raise DataError for a column of text that is mostly numbers in another way of writing: 1,5 or 10%."""
        import polars as pl

        values = self.data[name].drop_nulls()
        if values.dtype != pl.String:
            return
        other = values.filter(values.str.contains(WRITTEN_OTHERWISE))
        if 2 * len(other) > len(values):
            raise DataError(
                f"{self.path}: the column '{name}' has values such as '{other[0]}'; write numbers as 1234.5, without "
                f"signs, or list the column in categorical"
            )

    def _no_number(self, row: int, name: str) -> str:
        return (
            f"{self.place(row, name)}: got '{self.data[name][row]}', expected a number like most of the column; "
            f"correct it, list the column in categorical, or add what stands for a missing value to missing"
        )

    def texts(self, name: str) -> list[str]:
        """[N], "" where the value is missing; 1.0, as pandas writes whole numbers of a column with gaps, is 1."""
        import polars as pl

        values = self.series(name)
        if values.dtype in (pl.Date, pl.Datetime, pl.Time, pl.Duration) or values.dtype.is_nested():
            raise self._of_no_use(name, values.dtype)
        return values.cast(pl.String).str.replace(WHOLE, "${1}").fill_null("").to_list()

    def _of_no_use(self, name: str, dtype: Any) -> DataError:
        return DataError(
            f"{self.path}: the column '{name}' is of type {dtype}, neither numbers nor text; leave it out "
            f"(drop: ['{name}']), or make numbers of it first"
        )


def read_table(
    path: Path, missing: Sequence[str], separator: str | None, encoding: str, leave_out: bool = False
) -> Table:
    """A CSV file, or Parquet if its name ends so. Raises DataError for what is not a table with rows.

    leave_out: rows with more or fewer fields than the header, as `bad`; else they are an error.
    """
    try:
        import polars as pl
    except ImportError as e:
        raise UsageError(
            "data_loader: tables are read by polars, which is not installed: make extra NAME=tables installs it"
        ) from e
    if not path.is_file():
        raise DataError(f"there is no file {path.resolve()}; set file or test_file in data_loader.args to the table")
    if path.suffix.lower() in (".parquet", ".pq"):
        try:
            data = pl.read_parquet(path)
        except (pl.exceptions.PolarsError, OSError) as e:
            reason = str(e).strip().partition("\n")[0]
            raise DataError(f"{path} is not a sound Parquet file: {reason}") from e
        found = Table(path, data, np.arange(len(data)) + 1)
    else:
        found = _read_csv(path, separator, encoding)
    if found.bad and (not leave_out or not len(found)):
        raise DataError(found.bad[0][1])
    if not len(found):
        raise DataError(f"{path} has no rows; it needs a header and a row for each sample")
    data = found.data.with_columns(pl.col(pl.Null).cast(pl.String), pl.col(pl.Float32, pl.Float64).fill_nan(None))
    text = pl.col(pl.String).str.strip_chars()
    return replace(found, data=data.with_columns(pl.when(~text.is_in(list(missing))).then(text)))


def _read_csv(path: Path, separator: str | None, encoding: str) -> Table:
    """All columns as text. The header is row 1; rows that do not fit it are `bad`."""
    import polars as pl

    text, separator, skipped = rows_and_separator(path, decoded(path, encoding).rstrip("\n") + "\n", separator)
    first = 2 + skipped
    try:
        data = pl.read_csv(text.encode(), separator=separator, infer_schema=False)
        is_plain = len(data) == text.count("\n") - 1 and not data[:, -1].null_count()
    except pl.exceptions.PolarsError:
        is_plain = False
    if is_plain:
        header = header_of(path, next(csv.reader(io.StringIO(text), delimiter=separator)))
        if len(set(header)) == data.width:
            data = data.rename(dict(zip(data.columns, header, strict=True)))
            return Table(path, data, np.arange(len(data)) + first, first)
    # Rows over several lines, or too short, or too long: Python's own reader is slower, and knows where
    found = split_rows(path, text, separator, skipped)
    data = pl.DataFrame(found.columns, schema=dict.fromkeys(found.columns, pl.String))
    return Table(path, data, np.array(found.rows, np.int64), first, tuple(found.bad.items()))
