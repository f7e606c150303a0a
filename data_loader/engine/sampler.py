"""Which samples each optimizer step takes: a pure function of (seed, epoch, step), for any number of ranks."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np

from utils.seed import hash64, mix

ROUNDS = 8  # with 6, some orders of 4 or 5 samples are more frequent than others
DRAW_KEY = -5  # which samples are drawn, where weights decide
BLOCK = 16384  # positions permuted at once: 0.2 ms and 0.5 MB; in smaller blocks NumPy's overhead per call dominates


class Permutation:
    """A random order of range(n), a function of `key`, computed position by position in constant memory.

    Each round multiplies by an odd number, adds and xor-shifts, which permutes the numbers of `bits` bits; results
    outside range(n) are permuted again (cycle walking: Black and Rogaway, Ciphers with Arbitrary Finite Domains, 2002).
    """

    def __init__(self, n: int, key: int) -> None:
        self.n = n
        bits = max((n - 1).bit_length(), 6)  # fewer bits mix badly
        constants = hash64(np.uint64(key) + np.arange(2 * ROUNDS, dtype=np.uint64))
        # Only the lowest `bits` bits matter, so 32-bit numbers do where they fit, in half the time
        self.dtype = np.uint32 if bits <= 32 else np.uint64
        self.mask, self.shift = self.dtype(2**bits - 1), self.dtype((bits + 1) // 2)
        self.multipliers = (constants[:ROUNDS] | np.uint64(1)).astype(self.dtype)
        self.addends = constants[ROUNDS:].astype(self.dtype)

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """The sample at each position: int64 [B] -> int64 [B]."""
        x: Any = positions.astype(self.dtype)
        self._mix(x)
        outside = np.flatnonzero(x >= self.n)
        while len(outside):
            again = x[outside]
            self._mix(again)
            x[outside] = again
            outside = outside[again >= self.n]
        return x.astype(np.int64)

    def _mix(self, x: np.ndarray) -> None:
        """Permute in place."""
        for multiplier, addend in zip(self.multipliers, self.addends, strict=True):
            x *= multiplier
            x += addend
            x &= self.mask
            x ^= x >> self.shift


class StepSampler:
    """Cuts epochs of n samples into global steps of even size, each strided over ranks and then over micro-batches.

    Every sample comes exactly once per epoch, without padding or a tiny last batch: the sizes of two steps differ by
    one sample at most. Micro-batch i of a rank takes every (world_size * accumulate)-th sample of the step, starting
    at rank + i * world_size, so 2 ranks see what 1 rank with 2 micro-batches sees.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        shuffle: bool,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        accumulate: int = 1,
        limit: int | None = None,
    ) -> None:
        self.n, self.shuffle, self.seed = n, shuffle, seed
        self.draws: Draws | None = None  # of samples by weight; then positions are int64 [2, B]: samples, occurrences
        self.rank, self.world_size, self.accumulate = rank, world_size, accumulate
        self.num_steps = -(-n // batch_size)  # of the whole data set; `limit` may end the epoch earlier
        self.steps_per_epoch = min(self.num_steps, limit or self.num_steps)

    def size(self, step: int) -> int:
        """Number of samples in the global step."""
        k = step % self.steps_per_epoch
        return self._start(k + 1) - self._start(k)

    def batches(self, start: int) -> Iterator[tuple[int, np.ndarray]]:
        """(epoch, positions) of each micro-batch of this rank, from step `start` on, without end."""
        for epoch, samples in self._steps(start):
            for i in range(self.accumulate):
                yield epoch, samples[..., self.rank + i * self.world_size :: self.world_size * self.accumulate]

    def step(self, step: int) -> np.ndarray:
        """The positions of one global step, over all ranks."""
        return next(self._steps(step))[1]

    def iter_epoch(self) -> Iterator[tuple[int, np.ndarray]]:
        """One pass in order, as batches of this rank: for evaluation. A rank left without samples gets no batch."""
        for k in range(self.steps_per_epoch):
            samples = np.arange(self._start(k), self._start(k + 1))[self.rank :: self.world_size]
            if len(samples):
                yield 0, samples

    def batch(self, k: int) -> np.ndarray:
        """The positions of a whole batch of such a pass, over all ranks."""
        return np.arange(self._start(k), self._start(k + 1))

    def _start(self, k: int) -> int:
        """The first position of step k of an epoch."""
        return k * self.n // self.num_steps

    def _steps(self, start: int) -> Iterator[tuple[int, np.ndarray]]:
        epoch, k = divmod(start, self.steps_per_epoch)
        steps_per_block = max(1, BLOCK * self.num_steps // self.n)
        while True:
            order = Permutation(self.n, mix(self.seed, epoch)) if self.shuffle else np.asarray
            while k < self.steps_per_epoch:
                end = min(k + steps_per_block, self.steps_per_epoch)
                starts = [self._start(j) for j in range(k, end + 1)]
                samples = order(np.arange(starts[0], starts[-1]))
                if self.draws is not None:
                    samples = self.draws(samples, mix(self.seed, epoch, DRAW_KEY))
                for first, stop in pairwise(starts):
                    yield epoch, samples[..., first - starts[0] : stop - starts[0]]
                k = end
            epoch, k = epoch + 1, 0


class Draws:
    """Draws samples by weight, some of them several times: a function of the position and a key.

    The weights of all samples, one after another, are cut into n equal parts, one per position, and a position draws
    the sample at a random place of its part (stratified sampling). So each epoch has of a sample, and of samples next
    to each other, what their weight is worth, up to one or two; equal weights give each sample once.
    """

    def __init__(self, weights: np.ndarray, order: np.ndarray | None = None) -> None:
        """weights: [n], not negative, some positive. order: in which they are laid out (None: 0, 1, 2, ...)."""
        laid_out = weights if order is None else weights[order]
        self.order, self.last = order, int(np.flatnonzero(laid_out)[-1])
        self.ends = np.cumsum(laid_out / laid_out.max())  # equal weights are 1, whose sums are exact
        self.part = self.ends[-1] / len(weights)

    def __call__(self, positions: np.ndarray, key: int) -> np.ndarray:
        """The samples that these positions draw, and which time it is that each is drawn: int64 [2, B]."""
        bits = hash64(hash64(positions.astype(np.uint64)) ^ np.uint64(key)) >> np.uint64(32)
        places = (positions + bits * 2.0**-32) * self.part
        ascending = np.argsort(places)  # in which the search takes a third of the time
        found = np.empty(len(places), np.int64)
        found[ascending] = np.minimum(np.searchsorted(self.ends, places[ascending], side="right"), self.last)
        starts = np.where(found > 0, self.ends[found - 1], 0.0)
        # Positions before this one whose parts reach into the sample: no two positions have the same number of them
        times = np.maximum(positions - (starts / self.part).astype(np.int64), 0)
        return np.stack([found if self.order is None else self.order[found], times])
