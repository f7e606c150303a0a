"""Reads batches: (epoch, indices, occurrences) -> Batch."""

from collections.abc import Callable
from typing import Any

import numpy as np
from torch.utils.data import get_worker_info

from data_loader.engine import generators
from data_loader.engine.augmentation import TransformError
from data_loader.engine.batch import Batch, size_of
from data_loader.engine.changes import numbers_changed
from data_loader.engine.collate import collate
from data_loader.engine.failures import FAILURES, describe, not_collated, numbers, unreadable
from data_loader.engine.reachable import reachable
from utils.errors import SampleError
from utils.seed import Wanted, fetching

OPEN_FILES = {  # what reads at a position of its own
    *(f"_io.{name}" for name in ("BufferedRandom", "BufferedReader", "FileIO", "TextIOWrapper")),
    *("h5py.Dataset", "h5py.File", "sqlite3.Connection", "tarfile.TarFile", "zipfile.ZipFile"),
}


class Reader:
    """Reads the batch of an (epoch, indices, occurrences).

    Each sample is seeded by these and the seed, so that it does not depend on the worker, the rank or earlier reads.
    """

    changes_by_itself = ("returns_list", "samples_draw", "generators")  # does not affect samples

    def __init__(self, dataset: Any, collate_fn: Callable[[list[Any]], Any], seed: int, skip_bad: bool) -> None:
        self.dataset, self.collate_fn, self.seed, self.skip_bad = dataset, collate_fn, seed, skip_bad
        self.reads_whole_batches = callable(getattr(dataset, "__getitems__", None))
        self.uses_sample_keys = self.reads_whole_batches and getattr(dataset, "uses_sample_keys", False)
        self.returns_list: bool | None = None  # `__getitems__`, PyTorch's own protocol; None: not known yet
        self.samples_draw = False  # those of a list: each needs a seed of its own
        self.generators: list[Any] | None = None  # the data set's own; None: not searched for yet

    def read(self, epoch: int, indices: np.ndarray, occurrences: np.ndarray | None = None) -> Batch:
        """Raises SampleError if a sample cannot be read or the samples cannot be collated."""
        wanted = Wanted(self.seed, epoch, indices, occurrences)
        if self.uses_sample_keys:
            batch = self._read_together(wanted)
        elif self.generators is not None:
            batch = self._read(wanted)
        else:
            batch = self._first_read(wanted)
        if occurrences is not None:
            batch.occurrence = int(occurrences[0])
        return batch

    def _first_read(self, wanted: Wanted) -> Batch:
        notes = _shared_files(self.dataset) if get_worker_info() is not None else []
        self.generators = generators.own_generators(self)
        with numbers_changed(self) as changed:
            batch = self._read(wanted)
        made = generators.own_generators(self)
        if len(made) > len(self.generators):  # in the first read, and not seeded then
            self.generators = made
            batch = self._read(wanted)
        if changed:
            notes.append(
                f"data_loader: reading samples changes {', '.join(changed)}. If samples depend on it, they differ with "
                f"the number of workers and after a resume: compute it from the index instead"
            )
        batch.note = "\n".join(notes)
        return batch

    def _read(self, wanted: Wanted) -> Batch:
        if self.reads_whole_batches and not self.samples_draw:
            return self._read_together(wanted)
        return self._read_one_by_one(wanted)

    def _read_together(self, wanted: Wanted) -> Batch:
        try:
            data = self._getitems(wanted)
        except SampleError:
            raise
        except FAILURES as e:
            if self.returns_list:
                return self._read_one_by_one(wanted)
            good, bad = self._find_bad(wanted)
            if not bad:
                raise SampleError(f"samples {numbers(wanted.indices)} could not be read together: {describe(e)}") from e
            batch = self._read(good) if len(good.indices) else Batch(None, good.indices)
            batch.bad = bad + batch.bad
            return batch
        if self.samples_draw:
            return self._read_one_by_one(wanted)
        if self.returns_list:
            return self._collated(data, wanted.indices, [])
        indices = wanted.indices
        return Batch(data, indices, size=None if self.uses_sample_keys else size_of(data, len(indices)))

    def _read_one_by_one(self, wanted: Wanted) -> Batch:
        samples, bad, bad_positions = [], [], []
        indices, keys = wanted.indices, wanted.keys().tolist()
        for position, (index, key) in enumerate(zip(indices.tolist(), keys, strict=True)):
            generators.seed(key, self.generators or [])
            fetching(wanted, position)
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

    def _getitems(self, wanted: Wanted) -> Any:
        """What `__getitems__` returns, seeded by the first sample; notes whether it is a list, whose samples draw."""
        before, indices = None, wanted.indices
        if not self.uses_sample_keys:
            generators.seed(int(wanted.part(slice(1)).keys()[0]), self.generators or [])
            before = generators.global_state() if self.returns_list is not False else None
        fetching(wanted)
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

    def _find_bad(self, wanted: Wanted) -> tuple[Wanted, list[tuple[int, str]]]:
        """Read each sample alone: the readable ones, and the others with the reason."""
        is_good = np.ones(len(wanted.indices), dtype=bool)
        bad = []
        for i in range(len(wanted.indices)):
            try:
                self._getitems(wanted.part(slice(i, i + 1)))
            except FAILURES as e:
                bad.append(self._unreadable(int(wanted.indices[i]), e))
                is_good[i] = False
        return wanted.part(is_good), bad

    def _unreadable(self, index: int, error: BaseException) -> tuple[int, str]:
        """The note for a skipped sample; raises SampleError if none may be skipped."""
        reason = unreadable(self.dataset, index, error)
        if not self.skip_bad:
            what = "Correct or leave out this transform" if isinstance(error, TransformError) else "Repair or remove it"
            raise SampleError(
                f"{reason}\n{what}, or set trainer.skip_bad_samples=N to skip up to N such samples"
            ) from error
        return index, reason


def _shared_files(dataset: Any) -> list[str]:
    """The note about files that were open when the workers started: all workers share one position in each."""
    found = [path for path, value in reachable(dataset, "dataset") if _is_open(value)]
    return [
        f"data_loader: {path} is open in all workers, which move its position for each other, so that they may read "
        f"wrong data: open it in __getitem__, once in each process (compare os.getpid()), or set num_workers to 0"
        for path in found
    ]


def _is_open(value: Any) -> bool:
    kind = f"{type(value).__module__.partition('.')[0]}.{type(value).__name__}"
    if kind not in OPEN_FILES:
        return False
    if getattr(value, "closed", False) or getattr(value, "fp", value) is None:  # fp: of a ZipFile
        return False
    if kind.startswith("h5py.") and not value:
        return False
    return getattr(value, "readable", lambda: True)()
