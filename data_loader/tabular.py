"""Tables: CSV and Parquet files with a row per sample. They are read by polars: make extra NAME=tables."""

import functools
import re
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from data_loader import BaseDataLoader
from data_loader.engine.changes import log
from data_loader.engine.facts import class_facts, count_classes
from data_loader.engine.files.whole_batches import WholeBatches
from data_loader.engine.learned import class_numbers, coded, learn_classes, learned_before, training_samples
from data_loader.engine.paths import place
from data_loader.engine.splits import split_evenly
from data_loader.engine.texts.plain_text import by_number, shown
from data_loader.engine.texts.tables import Table, read_table, whole
from data_loader.engine.unlabeled import Unlabeled, row_names
from utils.config.files import did_you_mean, nearest
from utils.errors import DataError, UsageError
from utils.tensors import to_device

MISSING = ("", "NA", "N/A", "#N/A", "n/a", "<NA>", "NaN", "nan", "null", "NULL")
LARGEST = 1e100  # whose squares still add up
Task = Literal["classification", "regression"]


class TableDataLoader(BaseDataLoader):
    """Rows of a CSV or Parquet file: inputs float32 [B, F], and classes int64 [B] or numbers float32 [B].

    The inputs are the numbers, standardized; then 1 where a number was missing, 0 elsewhere; then the index of each
    category, where 0 is one that no training sample has. A missing number becomes their mean, a missing category one of
    its own. All of this is learned from the training samples alone, not from those that validate, and saved as facts.
    Rows without target are left out.

    file: a table with a header. target: the column to predict.
    features: the columns to predict from (default: all others). drop: columns to leave out.
    categorical, numeric: columns whose type is not to be found: text is categories, unless most of it is numbers.
    task: default: classification for a target of text, or of up to 20 whole numbers that recur; else regression.
    test_file: the table for testing; or test_split: rows of `file` that are only for testing, a fraction or a number,
        with each class's share; the same ones for every seed.
    missing: what stands for a missing value. separator, encoding: of CSV files, which gzip may have packed
        (default: a tab if the name ends in .tsv, .tab or .txt, else the sign that is in the header most often).
    facts: those of the training data, for testing and for a validation set of its own: nothing is learned then.
    predict: a table without target, for predict.py.
    """

    def __init__(
        self,
        file: str,
        target: str,
        batch_size: int = 64,
        training: bool = True,
        features: list[str] | None = None,
        drop: Sequence[str] = (),
        categorical: Sequence[str] = (),
        numeric: Sequence[str] = (),
        task: Task | None = None,
        test_file: str | None = None,
        test_split: float | int = 0,
        missing: Sequence[str] = MISSING,
        separator: str | None = None,
        encoding: str = "utf-8",
        facts: dict[str, Any] | None = None,
        predict: list[str] | None = None,
        **kwargs,
    ):
        if test_file is not None and test_split:
            raise UsageError(
                "data_loader: test_file and test_split both say what the test data is; leave out one of them"
            )
        if test_split and kwargs.get("group") is not None:
            raise UsageError(
                f"data_loader: test_split divides rows at random, also those of one {kwargs['group']} (group); put the "
                f"test rows into a file of their own: test_file"
            )
        if not training and test_file is None and not test_split and predict is None:
            raise UsageError(
                "data_loader: there is no test data; give test_file, or test_split to hold out rows of file"
            )
        learned = learned_before(facts, "table", training)
        path = place(_one_of(predict) if predict else file if training or test_file is None else test_file)
        table = read_table(path, missing, separator, encoding, leave_out=predict is not None)
        if predict is not None:
            table = table.of_numbers(learned["numbers"])
            _report_new(table, learned["categories"])
            columns, numbers = table.as_text(), (table.rows - table.first + 1).tolist()
            bad = [(f"row {row}", why) for row, why in sorted(table.bad)]
            self.unlabeled = Unlabeled(row_names(columns, len(table), numbers), [], columns, bad)
            table = table.with_any_target(target, learned.get("classes", [0])[0])
        else:
            table = table.with_target(target)
        if learned is not None:
            task = learned["task"]
        elif task is None:
            task = "classification" if table.is_classes(target) else "regression"
        if test_split and predict is None:
            table = table.part(_test_rows(table, target, task, test_split) != training)
        rows = TableRows(table, target, task)
        super().__init__(rows, batch_size, **kwargs)
        if learned is None:
            fitted_on = training_samples(self)
            names = _features(table, target, features, drop)
            learned = {"task": task, **_fit(table, fitted_on, names, categorical, numeric)}
            learned |= rows.fit_target(fitted_on)
            log.info(_report(table, learned, target, len(fitted_on)))
        rows.encode(learned)
        self.facts = _facts(learned)
        count_classes(self)


class TableRows(WholeBatches):
    """The rows of a table in memory; whole batches are read at once. `encode` comes before reading."""

    in_memory = True

    def __init__(self, table: Table, target: str, task: Task):
        self.table, self.target, self.task = table, target, task
        self.class_names: list[str] = []  # of the classes in this table, and which one each row has
        self.codes: np.ndarray | None = None
        if task == "classification":
            self.class_names, self.codes = coded(table.texts(target))
        self.labels = table.numbers(target) if self.codes is None else self.codes  # until `encode`
        self.tensors: list[Tensor] = []

    def fit_target(self, rows: np.ndarray) -> dict[str, Any]:
        """What is learned from the target in these rows."""
        if self.codes is None:
            values = self.labels[rows]
            return {"target_mean": float(values.mean()), "target_std": float(values.std()) or 1.0}
        where = f"{self.table.path}, column '{self.target}'"
        return {"classes": learn_classes(self.class_names, self.codes, rows, where)}

    def encode(self, learned: dict[str, Any]) -> None:
        """Make inputs and targets of the table by what was learned from the training samples."""
        if self.codes is not None:
            place = functools.partial(self.table.place, name=self.target)
            self.labels = class_numbers(
                self.class_names, self.codes, list(map(whole, learned["classes"])), place
            ).astype(np.int64)
        targets = torch.from_numpy(self.labels)
        self.tensors = [_encode(self.table, learned), targets if self.codes is not None else targets.float()]

    def column(self, name: str) -> np.ndarray:
        """A column of the table by row, for `group` and `stratify`: [N]. KeyError: there is none."""
        if name not in self.table.data.columns:
            raise KeyError(name)
        return self.table.numbers(name) if self.table.is_numeric(name) else np.array(self.table.texts(name))

    def to(self, device: torch.device) -> None:
        self.tensors = [tensor.to(device) for tensor in self.tensors]

    def __len__(self) -> int:
        return len(self.table)

    def __getitems__(self, indices: Sequence[int] | np.ndarray) -> tuple[Tensor, Tensor]:
        inputs, targets = self.tensors
        index = to_device(torch.from_numpy(np.asarray(indices)), inputs.device)
        return inputs.index_select(0, index), targets.index_select(0, index)


def _one_of(predict: list[str]) -> str:
    if len(predict) > 1:
        raise UsageError(f"data_loader: {len(predict)} tables are given to predict; give one")
    if not place(predict[0]).is_file():
        raise DataError(f"there is no file {place(predict[0]).resolve()}; give a table, a CSV or Parquet file")
    return predict[0]


def _report_new(table: Table, categories: dict[str, list[str]]) -> None:
    """Log which categories of a table to predict are unknown to the model."""
    for name, known in categories.items():
        texts = table.texts(name)
        if new := set(texts).difference(map(whole, known)):
            count = sum(text in new for text in texts)
            values = shown([repr(text) for text in sorted(new)])
            log.warning(
                f"{table.path}: no training sample has {values} in the column '{name}' "
                f"({count:,} of {len(table):,} rows)"
            )


# --- what is learned from the training samples


def _features(table: Table, target: str, features: list[str] | None, drop: Sequence[str]) -> list[str]:
    """The columns to predict from, in the order of the table."""
    for name in (*(features or ()), *drop):
        table.series(name)  # raises DataError if there is none
    if target in (features or ()):
        raise UsageError(f"data_loader: '{target}' is the target, and among the features; remove it from features")
    for name in table.data.columns:
        if re.fullmatch(r"|Unnamed: \d+", name) and name not in (features or ()):
            log.info(f"{table.path}: the column {name or 'without a name'} is left out; it often numbers the rows")
            drop = [*drop, name]
    names = [
        name for name in table.data.columns if name != target and name not in drop and name in (features or [name])
    ]
    if not names:
        raise UsageError(
            f"data_loader: no column of {table.path} is left to predict from, beside the target '{target}'"
        )
    return names


def _fit(
    table: Table, rows: np.ndarray, names: list[str], categorical: Sequence[str], numeric: Sequence[str]
) -> dict[str, Any]:
    """Plain values, by which `_encode` makes inputs: the mean and standard deviation of each number, which of them are
    missing in some of these rows, and the values of each category, "" where it is missing."""
    for name in (*categorical, *numeric):
        if name not in names or (name in categorical and name in numeric):
            wrong = "is not a feature" + did_you_mean(nearest(name, names)) if name not in names else "cannot be both"
            raise UsageError(
                f"data_loader: '{name}', listed in categorical or numeric, {wrong}; the features are {shown(names)}"
            )
    numbers: dict[str, list[float]] = {}
    categories: dict[str, list[str]] = {}
    flags = []
    for name in names:
        if name in numeric or (name not in categorical and table.is_numeric(name)):
            values = table.numbers(name)[rows]
            there = values[~np.isnan(values)]
            if not len(there):
                raise DataError(
                    f"{table.path}: the column '{name}' has no value in any training sample; drop: ['{name}']"
                )
            if np.abs(there).max() > LARGEST:
                raise DataError(f"{table.path}: the column '{name}' has numbers beyond {LARGEST:.0e}; divide them all")
            mean, deviation = float(there.mean()), float(there.std())
            constant = deviation <= 1e-12 * abs(mean)  # but for rounding
            numbers[name] = [mean, 1.0 if constant else deviation]
            flags += [name] if len(there) < len(values) else []
        else:
            if name not in categorical:
                table.check_words(name)
            texts = table.texts(name)
            categories[name] = sorted({texts[row] for row in rows.tolist()}, key=by_number)
            if len(categories[name]) > max(20, len(rows) // 2):
                log.warning(
                    f"{table.path}: the column '{name}' has {len(categories[name]):,} different values in "
                    f"{len(rows):,} training samples; if it only names the row, leave it out: drop: ['{name}']"
                )
    return {"numbers": numbers, "flags": flags, "categories": categories}


def _encode(table: Table, learned: dict[str, Any]) -> Tensor:
    """float32 [N, F]"""
    columns: list[np.ndarray] = []
    for name, (mean, deviation) in learned["numbers"].items():
        columns.append(np.nan_to_num((table.numbers(name) - mean) / deviation, nan=0.0))
    for name in learned["flags"]:
        columns.append(np.isnan(table.numbers(name)))
    for name, values in learned["categories"].items():
        index = {whole(value): i for i, value in enumerate(values, 1)}
        columns.append(np.array([index.get(text, 0) for text in table.texts(name)]))
    return torch.from_numpy(np.stack(columns, axis=1).astype(np.float32))


def _facts(learned: dict[str, Any]) -> dict[str, Any]:
    """What fills the model's parameters, and `table`, all that was learned."""
    facts = {
        "table": learned,
        "num_numbers": len(learned["numbers"]) + len(learned["flags"]),
        "category_sizes": [len(values) for values in learned["categories"].values()],
    }
    if learned["task"] == "classification":
        return facts | class_facts(learned["classes"])
    return facts | {"target_mean": learned["target_mean"], "target_std": learned["target_std"]}


def _test_rows(table: Table, target: str, task: Task, test_split: float | int) -> np.ndarray:
    """Which rows are for testing: bool [N]"""
    n = len(table)
    count = int(n * test_split) if isinstance(test_split, float) else test_split
    if not 0 < count < n:
        raise UsageError(
            f"data_loader: test_split is {test_split}; give a fraction between 0.0 and 1.0, or a number of rows from 1 "
            f"to {n - 1}"
        )
    labels = np.array(table.texts(target)) if task == "classification" else None
    _, test = split_evenly(n, [count, n - count], 0, labels, None)
    chosen = np.zeros(n, dtype=bool)
    chosen[test(np.arange(count))] = True
    return chosen


def _report(table: Table, learned: dict[str, Any], target: str, n: int) -> str:
    names = [*learned["numbers"], *learned["categories"]]
    missing = {name: table.data[name].null_count() for name in names}
    gaps = shown([f"{name} {count:,}" for name, count in missing.items() if count])
    what = f"{len(learned['classes'])} classes" if "classes" in learned else "numbers"
    if "classes" in learned and table.is_numeric(target):
        what += " (task: regression, if they are numbers to predict)"
    return (
        f"{table.path}: {n:,} of {len(table):,} rows train; {len(learned['numbers'])} columns of numbers, "
        f"{len(learned['categories'])} of categories; the target '{target}' is {what}; missing values: {gaps or 'none'}"
    )
