"""Batches of samples of similar length, which need less padding: still a pure function of (seed, epoch, step)."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np

from data_loader.engine.sampler import Permutation, StepSampler
from utils.errors import UsageError
from utils.seed import mix

BUCKET_KEY = -7  # in which order the steps of a bucket come is drawn apart from the order of samples


def check_bucket(loader: Any) -> None:
    """Raise UsageError if the loader's option `bucket` does not fit the others."""
    balanced, weights = loader._drawing
    if loader.bucket and (balanced or weights is not None):
        raise UsageError(
            "data_loader: bucket orders samples by length, and balanced and weights draw them by weight; leave out one "
            "of the two"
        )


class BucketSampler(StepSampler):
    """A StepSampler that sorts the samples of each bucket, some steps of an epoch, by length before it cuts them.

    The bucket's steps then come in random order. Every sample still comes exactly once per epoch, steps have the same
    sizes as without, and the micro-batches of a step, strided over its sorted samples, have similar lengths too.
    """

    def __init__(self, lengths_of: Callable[[np.ndarray], np.ndarray], bucket: int, *args: Any, **kwargs: Any) -> None:
        """lengths_of: positions [B] -> the lengths of their samples [B]. bucket: steps."""
        super().__init__(*args, **kwargs)
        self.lengths_of, self.bucket = lengths_of, bucket

    def _steps(self, start: int) -> Iterator[tuple[int, np.ndarray]]:
        epoch, k = divmod(start, self.steps_per_epoch)
        while True:
            while k < self.steps_per_epoch:
                first = k - k % self.bucket  # a bucket begins at the same step wherever a run is resumed
                for step, positions in enumerate(self._bucket(epoch, first), first):
                    if k <= step < self.steps_per_epoch:
                        yield epoch, positions
                k = first + self.bucket
            epoch, k = epoch + 1, 0

    def _bucket(self, epoch: int, first: int) -> list[np.ndarray]:
        """The positions of each step of the bucket that begins at step `first`."""
        end = min(first + self.bucket, self.num_steps)
        starts = [self._start(k) for k in range(first, end + 1)]
        positions = np.arange(starts[0], starts[-1])
        if self.shuffle:
            positions = Permutation(self.n, mix(self.seed, epoch))(positions)
        by_length = positions[np.argsort(self.lengths_of(positions), kind="stable")]
        sizes = np.diff(starts)
        order = np.arange(len(sizes))
        if self.shuffle and len(order) > 1:
            order = Permutation(len(order), mix(self.seed, epoch, first, BUCKET_KEY))(order)
        steps: list[np.ndarray] = [by_length] * len(order)
        # The shortest samples go to step order[0], which takes as many as it has without buckets
        for k, (begin, stop) in zip(order.tolist(), pairwise([0, *np.cumsum(sizes[order]).tolist()]), strict=True):
            steps[k] = by_length[begin:stop]
        return steps
