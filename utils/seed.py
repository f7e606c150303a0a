"""Randomness as a function of position, so that no generator state has to be saved.

The order of an epoch is a function of (seed, epoch), the augmentation of a sample of (seed, epoch, index), the model's
draws of (seed, step, shard). Generators are seeded just before use, with a key that `mix` computes from these numbers.
"""

import hashlib
import random

import numpy as np
import torch

# Splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MUL_1, _MUL_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_SIGNED = [int(c.astype(np.int64)) for c in (_GOLDEN, _MUL_1, _MUL_2)]  # torch has little uint64 arithmetic

_fetching: tuple[int, int, np.ndarray] | None = None  # (seed, epoch, indices)
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


def keys_of(seed: int, epoch: int, indices: np.ndarray) -> np.ndarray:
    """One 63-bit key per sample, a function of (seed, epoch, index): int64 [B]."""
    base = np.uint64(mix(seed, epoch))
    return (hash64(hash64(indices.astype(np.uint64)) ^ base) >> np.uint64(1)).astype(np.int64)


def fetching(samples: tuple[int, int, np.ndarray] | None) -> None:
    """Set the samples of `sample_keys()`, as (seed, epoch, indices); keys are only computed if it is called."""
    global _fetching
    _fetching = samples


def sample_keys() -> torch.Tensor:
    """The keys of the samples that are being fetched, in order: int64 [B]. For use in `__getitems__`."""
    if _fetching is None:
        raise RuntimeError("sample_keys() is only available while a data loader fetches a batch")
    return torch.from_numpy(keys_of(*_fetching))


def uniform(keys: torch.Tensor, n: int) -> torch.Tensor:
    """n numbers in [0, 1) per key, a function of the key alone: int64 [B] -> float32 [B, n], on the keys' device."""
    golden, mul_1, mul_2 = _SIGNED
    x = keys[:, None] + torch.arange(2, n + 2, device=keys.device) * golden
    # hash64 in int64, which wraps around like uint64; the masks remove the sign bits that its shifts copy
    x = (x ^ ((x >> 30) & (2**34 - 1))) * mul_1
    x = (x ^ ((x >> 27) & (2**37 - 1))) * mul_2
    x = x ^ ((x >> 31) & (2**33 - 1))
    return ((x >> 40) & (2**24 - 1)).float() * 2**-24
