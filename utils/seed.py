"""Randomness as a function of position, so that no generator state has to be saved.

The order of an epoch is a function of (seed, epoch), the augmentation of a sample of (seed, epoch, index, occurrence),
the model's draws of (seed, step, shard). Generators are seeded just before use, with a key that `mix` computes from
these numbers.
"""

import contextlib
import hashlib
import random
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

# Splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MUL_1, _MUL_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_SIGNED = [int(c.astype(np.int64)) for c in (_GOLDEN, _MUL_1, _MUL_2)]  # torch has little uint64 arithmetic

_fetching: "Wanted | None" = None
_position: int | None = None  # of the one sample that is fetched; None: all
_MPS = torch.backends.mps.is_available()


def mix(*numbers: int) -> int:
    """A 63-bit key of these numbers in this order; the same on every machine and Python."""
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest(), "little") >> 1


def seed_all(key: int) -> None:
    """Seed Python, NumPy, the CPU and the current accelerator, in about 10 us (`torch.manual_seed` takes 80 to 500)."""
    random.seed(key)
    np.random.seed(key & 0xFFFFFFFF)
    torch.default_generator.manual_seed(key)
    if torch.cuda.is_initialized():
        torch.cuda.default_generators[torch.cuda.current_device()].manual_seed(key)
    elif _MPS:
        torch.mps.manual_seed(key)


def hash64(values: np.ndarray) -> np.ndarray:
    """Splitmix64 of each number: uint64 -> uint64, a bijection with random-looking output."""
    with np.errstate(over="ignore"):
        x = values + _GOLDEN
        x = (x ^ (x >> np.uint64(30))) * _MUL_1
        x = (x ^ (x >> np.uint64(27))) * _MUL_2
        return x ^ (x >> np.uint64(31))


class Wanted(NamedTuple):
    """Samples that are read in one epoch."""

    seed: int
    epoch: int
    indices: np.ndarray  # int64 [B]
    occurrences: np.ndarray | None = None  # int64 [B]: how often each came before in its epoch; None: all 0

    def keys(self) -> np.ndarray:
        return keys_of(*self)

    def part(self, which: slice | np.ndarray) -> "Wanted":
        """A subset; which: a slice, a mask or positions."""
        again = self.occurrences
        return Wanted(self.seed, self.epoch, self.indices[which], None if again is None else again[which])


def keys_of(seed: int, epoch: int, indices: np.ndarray, occurrences: np.ndarray | None = None) -> np.ndarray:
    """One 63-bit key per sample, a function of (seed, epoch, index, occurrence): int64 [B]."""
    hashed = hash64(indices.astype(np.uint64)) ^ np.uint64(mix(seed, epoch))
    if occurrences is not None:
        hashed ^= occurrences.astype(np.uint64) * _GOLDEN  # 0 leaves the key as it is without occurrences
    return (hash64(hashed) >> np.uint64(1)).astype(np.int64)


def fetching(samples: Wanted | None, position: int | None = None) -> None:
    """Set the samples of `sample_keys()`, or the one at a position; keys are only computed if it is called."""
    global _fetching, _position
    _fetching, _position = samples, position


@contextlib.contextmanager
def fetching_part(which: np.ndarray) -> Iterator[None]:
    """Within this, `sample_keys()` has the keys of some samples of the batch: for a data set inside of another."""
    whole, position = _fetching, _position
    fetching(None if whole is None else _fetched().part(which))
    try:
        yield
    finally:
        fetching(whole, position)


def sample_keys() -> torch.Tensor:
    """The keys of the samples that are being fetched, in order: int64 [B]. For use in `__getitems__`."""
    return torch.from_numpy(_fetched().keys())


def _fetched() -> Wanted:
    if _fetching is None:
        raise RuntimeError("sample_keys() is only available while a data loader fetches a batch")
    return _fetching if _position is None else _fetching.part(slice(_position, _position + 1))


def uniform(keys: torch.Tensor, n: int) -> torch.Tensor:
    """n numbers in [0, 1) per key, a function of the key alone: int64 [B] -> float32 [B, n], on the keys' device."""
    golden, mul_1, mul_2 = _SIGNED
    x = keys[:, None] + torch.arange(2, n + 2, device=keys.device) * golden
    # hash64 in int64, which wraps around like uint64; the masks remove the sign bits that its shifts copy
    x = (x ^ ((x >> 30) & (2**34 - 1))) * mul_1
    x = (x ^ ((x >> 27) & (2**37 - 1))) * mul_2
    x = x ^ ((x >> 31) & (2**33 - 1))
    return ((x >> 40) & (2**24 - 1)).float() * 2**-24
