"""Tokens of texts: bytes, characters, words, hashed n-grams of characters, or those of the library `tokenizers`.

0 is padding, and 1 a token that no training text has. What is learned from the training texts is a dict of plain
values, which a checkpoint holds.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from utils.errors import DataError, UsageError
from utils.seed import hash64

PADDING, UNKNOWN = 0, 1
FIRST = 2  # the first token that means something
TEXTS = 20_000  # encoded at once
WORD = re.compile(r"\w+|[^\w\s]")
Unit = Literal["bytes", "characters", "words", "ngrams"]


class Ragged:
    """Sequences of different lengths, one after another in one array."""

    def __init__(self, values: np.ndarray, ends: np.ndarray) -> None:
        """values: of all sequences. ends: where each ends, int64 [N]."""
        self.values, self.offsets = values, np.concatenate([[0], ends]).astype(np.int64)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    def padded(self, indices: np.ndarray, fill: int = PADDING) -> np.ndarray:
        """Some of them, filled to the longest: int64 [B, T]"""
        starts = self.offsets[indices]
        lengths = self.offsets[indices + 1] - starts
        columns = np.arange(max(1, lengths.max()))  # models take a mean or maximum, also where all are empty
        inside = columns < lengths[:, None]
        batch = np.full(inside.shape, fill, np.int64)
        batch[inside] = self.values[(starts[:, None] + columns)[inside]]
        return batch


def learn(
    texts: Sequence[str],
    unit: Unit,
    vocab_size: int | None,
    min_count: int,
    ngrams: tuple[int, int],
    lowercase: bool,
    normalize: str | None,
    max_length: int,
    tokenizer: str | None,
) -> dict[str, Any]:
    """What `encode` needs, learned from the training texts. Its `vocab_size` counts padding and unknown too."""
    if max_length < 1 or min_count < 1 or (vocab_size is not None and vocab_size <= FIRST):
        raise UsageError(
            f"data_loader: max_length is {max_length}, min_count {min_count} and vocab_size {vocab_size}; give 1 or "
            f"more, 1 or more, and {FIRST + 1} or more (the first two are padding and unknown)"
        )
    learned: dict[str, Any] = {
        "tokens": unit, "ngrams": list(ngrams), "lowercase": lowercase, "normalize": normalize, "max_length": max_length
    }  # fmt: skip
    if tokenizer is not None:
        json = _read_tokenizer(Path(tokenizer))
        return learned | {"tokenizer": json, "vocab_size": FIRST + _tokenizer(json).get_vocab_size()}
    if unit == "bytes":
        return learned | {"vocab_size": FIRST + 256}
    if unit == "ngrams":
        if not 1 <= ngrams[0] <= ngrams[1]:
            raise UsageError(
                f"data_loader: ngrams is {list(ngrams)}; give the shortest and the longest, such as [1, 4]"
            )
        return learned | {"vocab_size": vocab_size or 2**17}
    counts: Counter[str] = Counter()
    for text in _prepared(texts, learned):
        counts.update(text if unit == "characters" else WORD.findall(text))
    # The most frequent ones; among equals the order is that of the alphabet, on every machine
    found = sorted((token for token in counts if counts[token] >= min_count), key=lambda token: (-counts[token], token))
    kept = found[: None if vocab_size is None else vocab_size - FIRST]
    return learned | {"vocabulary": kept, "vocab_size": FIRST + len(kept)}


class Encoder:
    """texts -> their tokens, by what was learned from the training texts; UNKNOWN alone where there are none.

    Only the first max_length tokens (of n-grams: characters) count.
    """

    changes_by_itself = ("_tokenizer",)

    def __init__(self, learned: dict[str, Any]) -> None:
        self.learned, self.most = learned, learned["max_length"]
        self.unit = "tokenizer" if "tokenizer" in learned else learned["tokens"]
        self._tokenizer: Any = None
        self.numbers: dict[str, int] = {}  # of words
        self.known, self.order = np.zeros(0, np.uint32), np.zeros(0, np.int64)  # characters' code points, their order
        if self.unit == "words":
            self.numbers = {word: i for i, word in enumerate(learned["vocabulary"], FIRST)}
        if self.unit == "characters":
            self.known = _code_points("".join(learned["vocabulary"]))
            self.order = np.argsort(self.known)

    def __call__(self, texts: Sequence[str]) -> Ragged:
        parts = [self._encode(texts[i : i + TEXTS]) for i in range(0, len(texts), TEXTS)]
        values, lengths = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        empty = lengths == 0
        values = np.insert(values, np.cumsum(lengths)[empty], UNKNOWN)
        return Ragged(values, np.cumsum(lengths + empty))

    def _encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The tokens of all texts, int32, and the number of those of each."""
        prepared, most = list(_prepared(texts, self.learned)), self.most
        if self.unit == "tokenizer":
            return _joined(self._by_library(prepared))
        if self.unit == "bytes":
            return _joined([np.frombuffer(_bytes(text)[:most], np.uint8).astype(np.int32) + FIRST for text in prepared])
        if self.unit == "words":
            words = (WORD.findall(text)[:most] for text in prepared)
            return _joined([np.array([self.numbers.get(word, UNKNOWN) for word in found], np.int32) for found in words])
        cut = [text[:most] for text in prepared]
        if self.unit == "ngrams":
            shortest, longest = self.learned["ngrams"]
            return _ngrams(cut, shortest, longest, self.learned["vocab_size"])
        return self._characters(_code_points("".join(cut))), np.array([len(text) for text in cut])

    def _characters(self, codes: np.ndarray) -> np.ndarray:
        if not len(self.known):
            return np.full(len(codes), UNKNOWN, np.int32)
        places = np.searchsorted(self.known, codes, sorter=self.order)
        candidates = self.order[np.minimum(places, len(self.known) - 1)]
        return np.where(self.known[candidates] == codes, candidates + FIRST, UNKNOWN).astype(np.int32)

    def _by_library(self, texts: Sequence[str]) -> list[np.ndarray]:
        if self._tokenizer is None:
            self._tokenizer = _tokenizer(self.learned["tokenizer"])
            self._tokenizer.no_padding()
            self._tokenizer.enable_truncation(self.most)
        return [np.array(found.ids, np.int32) + FIRST for found in self._tokenizer.encode_batch(texts)]


def _ngrams(texts: Sequence[str], shortest: int, longest: int, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """A hash of each n-gram of each text, FIRST ... vocab_size - 1. A space before and behind the text is part of it.

    Hashing needs no vocabulary; two n-grams that share a number are rare enough not to matter (Joulin et al., 2016).
    """
    codes = _code_points(" ".join(["", *texts, ""])).astype(np.uint64)
    lengths = np.array([len(text) for text in texts])
    owner = np.repeat(np.arange(len(texts)), lengths + 1)  # which text begins at or before this place
    last = np.cumsum(lengths + 1)[owner]  # the place of the space behind it
    keys, places = np.zeros(len(codes), np.uint64), np.arange(len(owner))
    found: list[np.ndarray] = []
    owners: list[np.ndarray] = []
    for n in range(1, longest + 1):
        keys = hash64(keys[: len(codes) - n + 1] ^ codes[n - 1 :])
        if n >= shortest:
            inside = np.flatnonzero(places + n - 1 <= last)
            if n == 1:
                inside = inside[codes[inside] != ord(" ")]
            found.append(keys[inside] % np.uint64(vocab_size - FIRST))
            owners.append(owner[inside])
    order = np.argsort(np.concatenate(owners), kind="stable")
    counts = np.bincount(np.concatenate(owners), minlength=len(texts))
    counts[lengths == 0] = 0
    kept = np.concatenate(found)[order][lengths[np.concatenate(owners)[order]] > 0]
    return kept.astype(np.int32) + FIRST, counts


def _prepared(texts: Iterable[str], learned: dict[str, Any]) -> Iterable[str]:
    """One spelling of each text: a Korean syllable may be one code point or three, which look the same (NFC: one)."""
    for text in texts:
        if learned["normalize"] is not None:
            text = unicodedata.normalize(learned["normalize"], text)
        yield text.lower() if learned["lowercase"] else text


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def _joined(arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate(arrays), np.array([len(array) for array in arrays])


def _read_tokenizer(path: Path) -> str:
    if not path.is_file():
        raise DataError(
            f"there is no file {path.resolve()}; set tokenizer in data_loader.args to one that the library tokenizers "
            f"wrote (Tokenizer.save)"
        )
    try:
        json = path.read_text(encoding="utf-8")
        _tokenizer(json)
    except UsageError:
        raise
    except Exception as e:  # the library raises plain Exceptions
        raise DataError(f"{path} is not a file of the library tokenizers: {e}; write it by Tokenizer.save") from e
    return json


def _tokenizer(json: str) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as e:
        raise UsageError(
            "data_loader: tokenizer needs the library tokenizers, which is not installed: make extra "
            "NAME=tokenizers; or leave it out, and give tokens: words, characters, bytes or ngrams"
        ) from e
    return Tokenizer.from_str(json)
