"""Texts: tables and folders of texts with a class each, and files of text for language models."""

from collections.abc import Sequence
from pathlib import Path
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
from data_loader.engine.texts.plain_text import is_no_text
from data_loader.engine.texts.text_files import LabeledTexts, read_folders, read_table, read_unlabeled
from data_loader.engine.texts.tokens import Encoder, Ragged, Unit, learn
from data_loader.engine.unlabeled import Unlabeled, row_names
from utils.errors import DataError, UsageError

IGNORED = -100  # the label of padding, which cross-entropy does not count


class TextDataLoader(BaseDataLoader):
    """Texts as tokens int64 [B, T], 0 where a text is shorter than the longest of its batch, and classes int64 [B].

    Which classes there are, and the vocabulary, is learned from the training samples alone, not of those that validate,
    and saved as facts. A token that no training sample has is 1.

    tokens: bytes, characters, words, or ngrams: hashed n-grams of characters, for an EmbeddingBag.
    ngrams: the shortest and the longest.
    vocab_size: the most frequent characters or words that are kept (default: all); for n-grams how many numbers they
        share (default: 131,072).
    min_count: characters and words that come less often are unknown.
    max_length: tokens of a text that count; of n-grams, characters.
    normalize: of Unicode; None: as it is. tokenizer: a file that the library tokenizers wrote, instead of tokens.
    facts: those of the training data, for testing.
    predict: texts without classes, for predict.py: a table, .txt files, folders of them, or the texts themselves.
    """

    def __init__(
        self,
        rows: LabeledTexts,
        batch_size: int = 64,
        training: bool = True,
        tokens: Unit = "characters",
        ngrams: tuple[int, int] = (1, 4),
        vocab_size: int | None = None,
        min_count: int = 1,
        max_length: int = 1000,
        lowercase: bool = False,
        normalize: Literal["NFC", "NFD", "NFKC", "NFKD"] | None = "NFC",
        tokenizer: str | None = None,
        facts: dict[str, Any] | None = None,
        predict: list[str] | None = None,
        **kwargs,
    ):
        texts = Texts(rows)
        super().__init__(texts, batch_size, **kwargs)
        learned = learned_before(facts, "text", training)
        if learned is None:
            fitted_on = training_samples(self)
            learned = learn(
                [rows.texts[i] for i in fitted_on.tolist()],
                tokens, vocab_size, min_count, ngrams, lowercase, normalize, max_length, tokenizer,
            )  # fmt: skip
            learned["classes"] = learn_classes(texts.class_names, texts.codes, fitted_on, rows.places[0])
        texts.encode(rows, learned, with_labels=predict is None)
        if facts is None:
            log.info(_report(texts, learned, len(self.samples)))
        if predict is not None:
            self.unlabeled = Unlabeled(row_names(rows.columns, len(rows), rows.numbers), [], rows.columns, rows.bad)
        self.facts = {"text": learned, "vocab_size": learned["vocab_size"], **class_facts(learned["classes"])}
        count_classes(self)


class TextTableDataLoader(TextDataLoader):
    """Texts in a column of a CSV or TSV file, and their classes in another.

    file, test_file: tables with a header. separator: default: a tab if the name ends in .tsv, .tab or .txt, else the
    sign that is in the header most often. quotes: does a field in double quotes end only with them? Default: not where
    tabs separate.
    """

    def __init__(
        self,
        file: str,
        text: str = "text",
        label: str = "label",
        batch_size: int = 64,
        training: bool = True,
        test_file: str | None = None,
        separator: str | None = None,
        quotes: bool | None = None,
        encoding: str = "utf-8",
        predict: list[str] | None = None,
        **kwargs,
    ):
        if not training and test_file is None and predict is None:
            raise UsageError("data_loader: there is no test data; set data_loader.args.test_file to a table of it")
        path = file if training or test_file is None else test_file
        if predict is None:
            rows = read_table(place(path), text, label, separator, quotes, encoding)
        else:
            rows = read_unlabeled(predict, text, separator, quotes, encoding)
        super().__init__(rows, batch_size, training=training, predict=predict, **kwargs)


class TextFolderDataLoader(TextDataLoader):
    """Text files in class folders, data_dir/train/CLASS/*.txt; those for testing in data_dir/test/CLASS/*.txt."""

    def __init__(
        self,
        data_dir: str,
        batch_size: int = 64,
        training: bool = True,
        encoding: str = "utf-8",
        predict: list[str] | None = None,
        **kwargs,
    ):
        if predict is None:
            rows = read_folders(place(data_dir) / ("train" if training else "test"), encoding)
        else:
            rows = read_unlabeled(predict, "text", None, None, encoding)
        super().__init__(rows, batch_size, training=training, predict=predict, **kwargs)


class Texts(WholeBatches):
    """Encoded texts in memory; whole batches are read at once. `encode` comes before reading."""

    in_memory = True

    def __init__(self, rows: LabeledTexts):
        self.class_names, self.codes = coded(rows.labels)  # until `encode`, `labels` are these codes
        self.labels, self.columns = self.codes, rows.columns
        self.tokens: Ragged | None = None

    def encode(self, rows: LabeledTexts, learned: dict[str, Any], with_labels: bool = True) -> None:
        """By what was learned from the training samples. Raises DataError for a class that these do not have."""
        self.tokens = Encoder(learned)(rows.texts)
        if with_labels:
            numbers = class_numbers(self.class_names, self.codes, learned["classes"], rows.places.__getitem__)
            self.labels = numbers.astype(np.int64)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each text, [N]; for batches of texts of similar length."""
        assert self.tokens is not None, "encode() comes first"
        return self.tokens.lengths

    def column(self, name: str) -> np.ndarray:
        """A column of the table by row, for `group` and `stratify`: [N]. KeyError: there is none."""
        return self.lengths if name == "lengths" else np.array(self.columns[name])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: Sequence[int] | np.ndarray) -> tuple[Tensor, Tensor]:
        assert self.tokens is not None, "encode() comes first"
        index = np.asarray(indices)
        return torch.from_numpy(self.tokens.padded(index)), torch.from_numpy(self.labels[index])


def _report(texts: Texts, learned: dict[str, Any], n: int) -> str:
    lengths, most = texts.lengths, learned["max_length"]
    n_cut = 0 if learned["tokens"] == "ngrams" else int((lengths >= most).sum())
    cut = f", {n_cut:,} of them cut or just as long as max_length: {most:,}" if n_cut else ""
    unit = "tokens of the tokenizer" if "tokenizer" in learned else learned["tokens"]
    return (
        f"{len(texts):,} texts, {n:,} of which train; {len(learned['classes'])} classes; {unit}, vocab_size "
        f"{learned['vocab_size']:,}; {lengths.mean():.0f} tokens on average, {lengths.max():,} at most{cut}"
    )


# --- files of text for language models


class LanguageModelDataLoader(BaseDataLoader):
    """Blocks of a text file for models that predict the next byte: inputs and targets int64 [B, T], T = block_size.

    The file is mapped into memory, so that it may be larger than that. Its tokens are the bytes, 0 ... 255, which
    writes any language.

    stride: where blocks begin: 1, at each byte, and an epoch has as many samples as the file has bytes (give
        trainer.max_steps); block_size: blocks that do not overlap.
    validation_split: the end of the file, a fraction or a number of bytes. Its blocks do not overlap.
    test_file: the text for testing.
    """

    def __init__(
        self,
        file: str,
        block_size: int = 64,
        batch_size: int = 12,
        training: bool = True,
        stride: int = 1,
        validation_split: float | int = 0.1,
        test_file: str | None = None,
        predict: list[str] | None = None,
        **kwargs,
    ):
        if block_size < 1 or stride < 1:
            raise UsageError(f"data_loader: block_size is {block_size} and stride {stride}; give 1 or more for both")
        source = _source(file, test_file, training, predict)
        size = Path(source).stat().st_size
        held_out = _held_out(size, validation_split) if training else 0
        blocks = Blocks(source, 0, size - held_out, block_size, stride if training else block_size)
        valid = Blocks(source, size - held_out, held_out, block_size, block_size) if held_out else None
        self.facts = {"vocab_size": 256, "block_size": block_size}
        super().__init__(blocks, batch_size, valid_dataset=valid, **kwargs)


def _held_out(size: int, validation_split: float | int) -> int:
    """How many bytes at the end of a file validate."""
    held_out = int(size * validation_split) if isinstance(validation_split, float) else validation_split
    if not 0 <= held_out < size:
        raise UsageError(
            f"data_loader: validation_split is {validation_split}; give a fraction from 0.0 to below 1.0, or a number "
            f"of bytes from 0 to {size - 1:,}"
        )
    return held_out


class Blocks(WholeBatches):
    """Sample i is the block_size + 1 bytes of a file that begin at start + i * stride."""

    def __init__(self, file: str, start: int, length: int, block_size: int, stride: int):
        """start, length: the part of the file that is read, in bytes."""
        if length <= block_size:
            raise DataError(
                f"{file}: {length:,} bytes are too few for a block of {block_size} and the byte after it; give a "
                f"longer file, a smaller block_size, or another validation_split"
            )
        self.file, self.start, self.length = file, start, length
        self.block_size, self.stride = block_size, stride
        self.bytes = self._open()

    def _open(self) -> np.ndarray:
        return np.memmap(self.file, np.uint8, "r", offset=self.start, shape=(self.length,))

    def __getstate__(self) -> dict[str, Any]:
        """For workers, which map the file for themselves."""
        return {name: value for name, value in vars(self).items() if name != "bytes"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.bytes = self._open()

    def __len__(self) -> int:
        return (self.length - self.block_size - 1) // self.stride + 1

    def __getitems__(self, indices: Sequence[int] | np.ndarray) -> tuple[Tensor, Tensor]:
        places = np.asarray(indices)[:, None] * self.stride + np.arange(self.block_size + 1)
        block = torch.from_numpy(self.bytes[places].astype(np.int64))
        return block[:, :-1], block[:, 1:]


class LinesDataLoader(BaseDataLoader):
    """Lines of a text file, each a sample, for models that predict the next byte: inputs and targets int64 [B, T].

    A newline comes first in the inputs and last in the targets. Where a line is shorter than the longest of its batch,
    the input is 0 and the target -100, which cross-entropy does not count. Empty lines are left out.

    block_size: bytes of a line that count. test_file: the text for testing.
    """

    def __init__(
        self,
        file: str,
        block_size: int = 256,
        batch_size: int = 64,
        training: bool = True,
        test_file: str | None = None,
        predict: list[str] | None = None,
        **kwargs,
    ):
        if block_size < 1:
            raise UsageError(f"data_loader: block_size is {block_size}; give 1 or more")
        lines = Lines(_source(file, test_file, training, predict), block_size)
        self.facts = {"vocab_size": 256, "block_size": block_size}
        super().__init__(lines, batch_size, **kwargs)


class Lines(WholeBatches):
    """The lines of a file, without those that are empty."""

    in_memory = True

    def __init__(self, file: str, block_size: int):
        text = [line[: block_size - 1] for line in Path(file).read_bytes().splitlines() if line.strip()]
        if not text:
            raise DataError(f"{file} has only empty lines; give a file of text")
        whole = np.frombuffer(b"".join(b"\n%b\n" % line for line in text), np.uint8)
        self.tokens = Ragged(whole, np.cumsum([len(line) + 2 for line in text]))

    @property
    def lengths(self) -> np.ndarray:
        return self.tokens.lengths

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitems__(self, indices: Sequence[int] | np.ndarray) -> tuple[Tensor, Tensor]:
        line = torch.from_numpy(self.tokens.padded(np.asarray(indices), IGNORED))
        targets = line[:, 1:]
        return line[:, :-1].masked_fill(targets == IGNORED, 0), targets


def _source(file: str, test_file: str | None, training: bool, predict: list[str] | None) -> str:
    """The file of text that is read. Raises DataError if it is none, or has nothing."""
    if predict is not None:
        raise UsageError(
            "data_loader: a language model predicts the next byte at each place, which is not a table row; test.py "
            "gives its loss on a text, data_loader.args.test_file, and the callback GeneratedText what it writes"
        )
    if (source := file if training else test_file) is None:
        raise UsageError("data_loader: there is no test data; set data_loader.args.test_file to a text file")
    path = place(source)
    if not path.is_file():
        raise DataError(f"there is no file {path.resolve()}; set file or test_file in data_loader.args to a text file")
    with open(path, "rb") as opened:
        head = opened.read(8)
    if wrong := is_no_text(head) or ("empty" if not head else None):
        raise DataError(f"{path} is {wrong}; give a file of text")
    return str(path)
