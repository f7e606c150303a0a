"""Reads batches: (epoch, indices) -> Batch."""

from collections.abc import Callable
from typing import Any

import numpy as np

from data_loader.engine import generators
from data_loader.engine.batch import Batch, size_of
from data_loader.engine.changes import numbers_changed
from data_loader.engine.collate import collate
from data_loader.engine.failures import FAILURES, describe, not_collated, numbers, unreadable
from utils.errors import SampleError
from utils.seed import fetching, keys_of


class Reader:
    """Reads the batch of an (epoch, indices).

    Each sample is seeded by (seed, epoch, index), so that it does not depend on the worker, the rank or earlier reads.
    """

    changes_by_itself = ("returns_list", "samples_draw", "generators")  # nothing that samples depend on

    def __init__(self, dataset: Any, collate_fn: Callable[[list[Any]], Any], seed: int, skip_bad: bool) -> None:
        self.dataset, self.collate_fn, self.seed, self.skip_bad = dataset, collate_fn, seed, skip_bad
        self.reads_whole_batches = callable(getattr(dataset, "__getitems__", None))
        self.uses_sample_keys = self.reads_whole_batches and getattr(dataset, "uses_sample_keys", False)
        self.returns_list: bool | None = None  # `__getitems__`, PyTorch's own protocol; None: not known yet
        self.samples_draw = False  # those of a list: each needs a seed of its own
        self.generators: list[Any] | None = None  # the data set's own; None: not searched for yet

    def read(self, epoch: int, indices: np.ndarray) -> Batch:
        """Raises SampleError if a sample cannot be read or the samples cannot be collated."""
        if self.uses_sample_keys:
            return self._read_together(epoch, indices)
        if self.generators is not None:
            return self._read(epoch, indices)
        self.generators = generators.own_generators(self)
        with numbers_changed(self) as changed:
            batch = self._read(epoch, indices)
        made = generators.own_generators(self)
        if len(made) > len(self.generators):  # in the first read, and not seeded then
            self.generators = made
            batch = self._read(epoch, indices)
        if changed:
            batch.note = (
                f"data_loader: reading samples changes {', '.join(changed)}. If samples depend on it, they differ with "
                f"the number of workers and after a resume: compute it from the index instead"
            )
        return batch

    def _read(self, epoch: int, indices: np.ndarray) -> Batch:
        if self.reads_whole_batches and not self.samples_draw:
            return self._read_together(epoch, indices)
        return self._read_one_by_one(epoch, indices)

    def _read_together(self, epoch: int, indices: np.ndarray) -> Batch:
        try:
            data = self._getitems(epoch, indices)
        except SampleError:
            raise
        except FAILURES as e:
            if self.returns_list:
                return self._read_one_by_one(epoch, indices)
            good, bad = self._find_bad(epoch, indices)
            if not bad:
                raise SampleError(f"samples {numbers(indices)} could not be read together: {describe(e)}") from e
            batch = self._read(epoch, good) if len(good) else Batch(None, good)
            batch.bad = bad + batch.bad
            return batch
        if self.samples_draw:
            return self._read_one_by_one(epoch, indices)
        if self.returns_list:
            return self._collated(data, indices, [])
        return Batch(data, indices, size=None if self.uses_sample_keys else size_of(data, len(indices)))

    def _read_one_by_one(self, epoch: int, indices: np.ndarray) -> Batch:
        samples, bad, bad_positions = [], [], []
        keys = keys_of(self.seed, epoch, indices).tolist()
        for position, (index, key) in enumerate(zip(indices.tolist(), keys, strict=True)):
            generators.seed(key, self.generators or [])
            fetching((self.seed, epoch, indices[position : position + 1]))
            try:
                samples.append(self._getitem(index))
            except FAILURES as e:
                bad.append(self._unreadable(index, e))
                bad_positions.append(position)
            finally:
                fetching(None)
        if bad:
            indices = np.delete(indices, bad_positions)
        return self._collated(samples, indices, bad) if samples else Batch(None, indices, bad)

    def _getitem(self, index: int) -> Any:
        sample = self.dataset.__getitems__([index])[0] if self.reads_whole_batches else self.dataset[index]
        if sample is None and self.collate_fn is collate:
            raise TypeError("it is None: the data set returned nothing; a collate_fn of your own may leave out None")
        return sample

    def _collated(self, samples: list[Any], indices: np.ndarray, bad: list[tuple[int, str]]) -> Batch:
        is_own = self.collate_fn is not collate
        try:
            data = self.collate_fn(samples)
        except FAILURES as e:
            raise not_collated(indices, samples, e, is_own) from e
        return Batch(data, indices, bad, size=size_of(data, len(indices)) if is_own else None)

    def _getitems(self, epoch: int, indices: np.ndarray) -> Any:
        """What `__getitems__` returns, seeded by the first sample; notes whether it is a list, whose samples draw."""
        before = None
        if not self.uses_sample_keys:
            generators.seed(int(keys_of(self.seed, epoch, indices[:1])[0]), self.generators or [])
            before = generators.global_state() if self.returns_list is not False else None
        fetching((self.seed, epoch, indices))
        try:
            first = self.returns_list is not False
            data = self._call_getitems(indices) if first else self.dataset.__getitems__(indices)
        finally:
            fetching(None)
        if isinstance(data, list) and len(data) != len(indices):
            raise SampleError(
                f"__getitems__ returned a list of {len(data)} for {len(indices)} indices; return a list with one item "
                f"per index, or the batch itself as a tuple, dict or tensor"
            )
        self.returns_list = isinstance(data, list)
        self.samples_draw = self.returns_list and (bool(self.generators) or before != generators.global_state())
        return data

    def _call_getitems(self, indices: np.ndarray) -> Any:
        if self.returns_list:
            return self.dataset.__getitems__(indices.tolist())
        try:
            return self.dataset.__getitems__(indices)
        except Exception:
            if self.returns_list is None:
                try:  # PyTorch's own protocol gives a list
                    return self.dataset.__getitems__(indices.tolist())
                except Exception:
                    pass
            raise

    def _find_bad(self, epoch: int, indices: np.ndarray) -> tuple[np.ndarray, list[tuple[int, str]]]:
        """Read each sample alone: the indices of the readable ones, and the others with the reason."""
        is_good = np.ones(len(indices), dtype=bool)
        bad = []
        for i in range(len(indices)):
            try:
                self._getitems(epoch, indices[i : i + 1])
            except FAILURES as e:
                bad.append(self._unreadable(int(indices[i]), e))
                is_good[i] = False
        return indices[is_good], bad

    def _unreadable(self, index: int, error: BaseException) -> tuple[int, str]:
        """The note for a skipped sample; raises SampleError if none may be skipped."""
        reason = unreadable(self.dataset, index, error)
        if not self.skip_bad:
            raise SampleError(
                f"{reason}\nRepair or remove it, or set trainer.skip_bad_samples=N to skip up to N such samples"
            ) from error
        return index, reason
