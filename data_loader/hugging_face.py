"""Data sets of Hugging Face: of the hub or its cache, saved folders, and JSON, CSV or Parquet files of any size.

The library `datasets` reads them: make extra NAME=huggingface. It keeps rows in Arrow files that are mapped into
memory, so that a data set may be larger than that; files of other formats are converted once, into its cache.
"""

import copy
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data_loader import BaseDataLoader
from data_loader.engine.augmentation import Transform, of_image
from data_loader.engine.changes import log
from data_loader.engine.facts import class_facts, count_classes
from data_loader.engine.files.hub import Columns, Wanted, read_split, read_unlabeled
from data_loader.engine.files.whole_batches import WholeBatches
from data_loader.engine.images.decode import ImageFile
from data_loader.engine.images.in_memory import NormalizeBatch
from data_loader.engine.learned import (
    Scale,
    class_numbers,
    data_sets,
    learn_classes,
    learn_scale,
    learned_before,
    training_samples,
)
from data_loader.engine.texts.plain_text import shown
from data_loader.engine.texts.tokens import Encoder, Ragged, Unit, learn
from utils.errors import DataError

IGNORED = -100  # what follows a list of labels that is shorter than others of its batch
Task = Literal["classification", "regression"]


class HuggingFaceDataLoader(BaseDataLoader):
    """Rows of a data set: inputs from one column or several, and classes int64 [B] or numbers float32 [B].

    path: a name on the hub, a folder that `save_to_disk` wrote, or files by their pattern (data/*.parquet), also as a
        mapping from split: {train: a.csv, test: b.csv}. subset: its configuration, if it has several.
    split, valid, test: which splits train, validate and test; without valid, use validation_split.
    input: an image -> uint8 [B, 3, H, W], normalized by mean and std after all transforms; numbers -> float32 [B, F],
        standardized by what was learned from the training rows; texts -> tokens int64 [B, T], those of several columns
        joined by a newline; lists of integers -> int64 [B, T], 0 where one is shorter; other lists -> float32 [B, F].
    target: class labels, text, true or false, integers -> classes; numbers with fractions -> float32 [B], [B, K] of
        several columns; lists of integers -> int64 [B, T], -100 where one is shorter.
    task: regression, for a target of integers that are not classes.
    tokens, ngrams, vocab_size, max_length, tokenizer: of texts, as TextDataLoader has them (text.py).
    facts: those of the training data, for testing: nothing is learned then.
    predict: rows without target, for predict.py: files, a saved folder; image files or folders of them; or texts.
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
        predict: list[str] | None = None,
        **kwargs,
    ):
        learned = learned_before(facts, "hugging_face", training)
        wanted, valid_rows = Wanted(input, target, task), None

        def read(part: str) -> DataSetRows:
            data, name = read_split(path, subset, part, cache_dir), f"{path}, split '{part}'"
            return rows_of(data, name, wanted.columns(data, name))

        if predict is not None:
            data, self.unlabeled = read_unlabeled(predict, wanted.inputs, learned.get("kind"), test, cache_dir)
            name = shown(predict)
            rows = rows_of(data, name, wanted.columns(data, name, with_targets=False))
        else:
            rows = read(split if training else test)
        if training and valid is not None:
            valid_rows = read(valid)
        of_images: dict[str, Any] = {}
        if rows.kind == "image":
            of_images["batch_transform"] = NormalizeBatch(mean, std, kwargs.get("transforms"))
        super().__init__(rows, batch_size, valid_dataset=valid_rows, **of_images, **kwargs)
        if learned is None:
            fitted_on = training_samples(self)
            learned = {"kind": rows.kind, "scale": None, "text": None, "classes": None}
            if rows.kind == "text":
                options = (tokens, vocab_size, 1, ngrams, False, "NFC", max_length, tokenizer)
                learned["text"] = learn(rows.texts_of(fitted_on), *options)
            elif rows.kind == "number":
                learned["scale"] = learn_scale(rows.numbers, fitted_on, rows.place)
            if rows.codes is not None:
                learned["classes"] = rows.classes(fitted_on)
        for each in data_sets(self):
            each.encode(learned)
        self.facts = _facts(rows, learned)
        count_classes(self)
        log.info(f"{rows.place}: {len(rows):,} rows; input: {rows.kind}, target: {rows.target_kind}")


def _facts(rows: "DataSetRows", learned: dict[str, Any]) -> dict[str, Any]:
    """What fills the model's parameters, and `hugging_face`, all that was learned."""
    facts: dict[str, Any] = {"hugging_face": learned}
    if learned["text"] is not None:
        facts |= {"vocab_size": learned["text"]["vocab_size"]}
    if rows.kind == "number":
        facts |= {"in_features": len(rows.inputs), "num_numbers": len(rows.inputs), "category_sizes": []}
    if learned["classes"] is not None:
        facts |= class_facts(learned["classes"])
    return facts


# --- rows


def rows_of(data: Any, place: str, columns: Columns) -> "DataSetRows":
    """place: what the split is called in messages."""
    return ImageRows(data, place, columns) if columns.kind == "image" else BatchRows(data, place, columns)


class DataSetRows(Dataset):
    """Rows of a data set, read from mapped files when they are needed. `encode` comes first.

    Workers are sent the names of the files.
    """

    changes_by_itself = ("data", "features")  # the library's own objects

    def __init__(self, data: Any, place: str, columns: Columns) -> None:
        self.place, self.features = place, data.features
        self.inputs, self.targets, self.kind, self.target_kind, self.one_target = columns
        self.data = self._prepared(data.with_format("arrow"))  # a mapped table
        for name in [*(() if self.kind == "text" else self.inputs), *self.targets]:
            self._check_missing(name)
        self.class_names: list[str] = []  # of the classes in this split, and which one each row has
        self.codes = self._codes(self.targets[0]) if self.target_kind == "class" else None
        self.labels = self.codes  # until `encode`
        self.scale: Scale | None = None
        self.encoder: Encoder | None = None

    def _prepared(self, data: Any) -> Any:
        return data

    def encode(self, learned: dict[str, Any]) -> None:
        """Read rows by what was learned from the training rows. Raises DataError for a class that these do not have."""
        self.scale = Scale(learned["scale"]) if learned["scale"] else None
        self.encoder = Encoder(learned["text"]) if learned["text"] else None
        if self.codes is None:
            return
        self.labels = class_numbers(
            self.class_names,
            self.codes,
            learned["classes"],
            lambda row: f"{self.place}, row {row}, column '{self.targets[0]}'",
        )

    # what is learned from the training rows

    def classes(self, rows: np.ndarray) -> list[str]:
        """The names of a column of class labels, or else of the classes that these rows have."""
        assert self.codes is not None
        if hasattr(self.features[self.targets[0]], "names"):
            return list(self.class_names)
        return learn_classes(self.class_names, self.codes, rows, f"{self.place}, column '{self.targets[0]}'")

    def numbers(self, rows: np.ndarray) -> np.ndarray:
        return self._numbers(self._table(rows), self.inputs)

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
        if not self.targets:
            return torch.zeros(len(index), dtype=torch.int64)  # not used
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
        if column.flatten().null_count:
            raise ValueError(f"the column '{name}' has a list in which a value is missing")
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


class BatchRows(DataSetRows, WholeBatches):
    """Numbers, texts and lists: whole batches at once."""

    def __getitems__(self, indices: Sequence[int] | np.ndarray) -> tuple[Tensor, Tensor]:
        index = np.asarray(indices)
        table = self._table(index)
        if self.encoder is not None:
            texts = self.encoder(self._texts(table))
            return torch.from_numpy(texts.padded(np.arange(len(index)))), self._target(table, index)
        if self.kind == "list":
            return self._lists(table, self.inputs[0], index, 0), self._target(table, index)
        assert self.scale is not None, "encode() comes first"
        return torch.from_numpy(self.scale(self._numbers(table, self.inputs))), self._target(table, index)


class ImageRows(DataSetRows):
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
