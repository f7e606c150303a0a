"""Batches, the validation split, and a position that is nothing but a step number."""

import itertools
import traceback
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, default_collate

from data_loader import workers
from data_loader.sampler import Permutation, StepSampler
from utils.errors import Refused, SampleError
from utils.seed import fetching, keys_of, seed_all
from utils.tensors import to_device

_CPU = torch.device("cpu")
SPLIT_KEY = 0  # the validation split is the same for every seed, so that runs compare


class Batch(NamedTuple):
    data: Any
    size: int  # samples
    bad: list[tuple[int, str]]  # samples that could not be read and were skipped: (index, why)
    shard: int = 0  # which micro-batch of its step


class Samples:
    """Part of a data set: positions 0..len-1 -> indices, `start` further on in a fixed random order."""

    def __init__(self, length: int, order: Permutation | None = None, start: int = 0) -> None:
        self.length, self.order, self.start = length, order, start

    def __len__(self) -> int:
        return self.length

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        return positions if self.order is None else self.order(positions + self.start)


class BaseDataLoader:
    """Loads any map-style Dataset; derive from it and hand it your data set.

    batch_size: samples per optimizer step, over all ranks and micro-batches.
    validation_split: samples held out for validation, as a fraction or a count; the same ones for every seed.
    collate_fn: list of samples -> batch.
    finish: batch -> batch, in the main process and on the run's device: what is quicker there than in a worker.
    prefetch: batches that each worker reads ahead.
    resident: keep the data set on the run's device, where its batches are then made. It must have `to(device)`.
    eval_dataset: the same samples as validation sees them, without augmentation (default: `dataset` itself).
    skip_bad_samples: samples that may fail to load before the run stops.

    A data set may have `__getitems__(indices)`, indices int64 [B]: a list it returns is a list of samples (PyTorch's
    own protocol) and is collated; anything else is the batch itself.
    Raises Refused where the split or the batch does not fit the data set.
    """

    _passes: Generator[Batch, None, None] | None = None  # one after another, from the workers that once() keeps
    _left = 0  # batches of the current pass that are still to come

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        shuffle: bool = True,
        validation_split: float | int = 0.0,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        eval_dataset: Any = None,
        finish: Callable[[Any], Any] | None = None,
        prefetch: int = 2,
        resident: bool = False,
    ) -> None:
        self.dataset, self.batch_size, self.shuffle, self.num_workers = dataset, batch_size, shuffle, num_workers
        self.collate_fn, self.finish = collate_fn or default_collate, finish
        self.prefetch, self.resident = prefetch, resident
        self.eval_dataset = eval_dataset if eval_dataset is not None else dataset
        self._check_options()
        n = len(dataset)
        if len(self.eval_dataset) != n:
            raise ValueError(f"eval_dataset must hold the {n} samples of dataset, in the same order")
        held_out = _held_out(n, validation_split)
        order = Permutation(n, SPLIT_KEY) if held_out else None
        self.samples = Samples(n - held_out, order, held_out)
        self._validation = Samples(held_out, order)
        if batch_size < 1:
            raise Refused(f"data_loader: batch_size is {batch_size}; it must be at least 1")
        if batch_size > len(self.samples):
            split = f" ({n} less {held_out} for validation)" if held_out else ""
            raise Refused(
                f"data_loader: batch_size {batch_size} is more than the data set, {len(self.samples)} samples{split}; "
                f"give batch_size {len(self.samples)} or less"
            )
        self.configure()

    def configure(
        self,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        accumulate: int = 1,
        limit: int | None = None,
        skip_bad_samples: int = 0,
        device: torch.device = _CPU,
    ) -> None:
        """Take what the run decides, not the data set: the seed, the ranks, micro-batches a step, steps an epoch."""
        self.close()
        self.seed, self.skip_bad_samples, self.device = seed, skip_bad_samples, device
        if self.resident:
            self.dataset.to(device)
            self.eval_dataset.to(device)
        self.sampler = StepSampler(
            len(self.samples), self.batch_size, self.shuffle, seed, rank, world, accumulate, limit
        )

    def split_validation(self) -> "BaseDataLoader | None":
        """The loader of the samples held out by `validation_split`; None where it is 0."""
        if not len(self._validation):
            return None
        loader = BaseDataLoader.__new__(BaseDataLoader)
        loader.__dict__.update(self.__dict__)
        loader.dataset, loader.samples, loader.shuffle = self.eval_dataset, self._validation, False
        loader._validation, loader._passes = Samples(0), None
        loader.configure(self.seed, device=self.device)
        return loader

    def check_shards(self) -> None:
        """Raise Refused where a step is too small to give every rank's every micro-batch a sample."""
        s = self.sampler
        smallest = s.n // s.cuts
        if smallest < s.world * s.accumulate:
            raise Refused(
                f"data_loader: a step of {smallest} samples cannot be cut into {s.world} ranks x {s.accumulate} "
                f"micro-batches; raise batch_size or lower trainer.accumulate"
            )

    @property
    def steps_per_epoch(self) -> int:
        return self.sampler.steps_per_epoch

    def __len__(self) -> int:
        return self.sampler.steps_per_epoch

    def indices(self, step: int) -> np.ndarray:
        """The samples of one global step, over all ranks: int64 [B]."""
        return self.samples(self.sampler.step(step))

    def stream(self, step: int) -> Iterator[Batch]:
        """The micro-batches of this rank from optimizer step `step` on, without end; close it to stop its workers."""
        return self._load(self.sampler.batches(step))

    def __iter__(self) -> Iterator[Any]:
        """The batches of one pass in order, each sample once: for evaluation, and to look at."""
        for batch in self.once():
            yield batch.data

    def once(self, keep: bool = False) -> Iterator[Batch]:
        """One pass in order; over all ranks, each sample once. keep: let its workers live for the next, until close().

        Kept workers go on with the first batches of the next pass, which wait until it comes; they have the data set as
        it was at their first pass.
        """
        if not (keep and self.num_workers):
            yield from self._load(self.sampler.once())
            return
        if self._passes is None or self._left:  # else a pass that was broken off would go on here
            self.close()
            self._passes = self._load(batch for _ in itertools.count() for batch in self.sampler.once())
        self._left = sum(1 for _ in self.sampler.once())
        while self._left:
            batch = next(self._passes)
            self._left -= 1
            yield batch

    def close(self) -> None:
        """Stop the workers that `once` keeps."""
        if self._passes is not None:
            self._passes.close()
        self._passes, self._left = None, 0

    def _load(self, batches: Iterator[tuple[int, np.ndarray]]) -> Generator[Batch, None, None]:
        reader = _Reader(self.dataset, self.collate_fn, self.seed, self.skip_bad_samples > 0)
        requests = ((epoch, self.samples(positions)) for epoch, positions in batches)
        if self.num_workers == 0:
            return (self._finished(reader.read(epoch, indices)) for epoch, indices in requests)
        pin = self.device.type == "cuda"
        return workers.load(reader, requests, self._finished, self.num_workers, self.prefetch, pin)

    def _finished(self, batch: Batch) -> Batch:
        """The batch on the run's device, and what is done to it there."""
        if batch.data is None or (self.finish is None and self.device.type == "cpu"):  # where it was read
            return batch
        data = to_device(batch.data, self.device)
        return batch._replace(data=data if self.finish is None else self.finish(data))

    def _check_options(self) -> None:
        if self.prefetch < 1:
            raise Refused(f"data_loader: prefetch is {self.prefetch}; each worker reads at least 1 batch ahead")
        if not self.resident:
            return
        if self.num_workers:
            raise Refused(
                f"data_loader: resident data are read by no workers, and num_workers is {self.num_workers}; leave out "
                f"one of the two"
            )
        for dataset in (self.dataset, self.eval_dataset):
            if not hasattr(dataset, "to"):
                raise Refused(
                    f"data_loader: a {type(dataset).__name__} cannot be resident; what has `to(device)` can, as "
                    f"ImageTensors of data_loader/data_loaders.py, images in memory. Leave out resident"
                )


class _Reader(Dataset[Batch | SampleError]):
    """(epoch, indices) -> Batch, seeded so that it depends on nothing else: not on the worker, the rank or the past."""

    def __init__(self, dataset: Any, collate: Callable[[list[Any]], Any], seed: int, skip_bad: bool) -> None:
        self.dataset, self.collate, self.seed, self.skip_bad = dataset, collate, seed, skip_bad
        self.at_once = hasattr(dataset, "__getitems__")

    def __getitem__(self, request: tuple[int, np.ndarray]) -> Batch | SampleError:
        """For workers: an error that they raised would come with their traceback as its text."""
        try:
            return self.read(*request)
        except SampleError as e:
            return e

    def read(self, epoch: int, indices: np.ndarray) -> Batch:
        if self.at_once:
            return self._read_at_once(epoch, indices)
        keys = keys_of(self.seed, epoch, indices)
        samples, bad = [], []
        for index, key in zip(indices.tolist(), keys.tolist(), strict=True):
            seed_all(key)
            try:
                samples.append(self.dataset[index])
            except Exception as e:
                bad.append(self._unreadable(index, e))
        return Batch(self.collate(samples) if samples else None, len(samples), bad)

    def _read_at_once(self, epoch: int, indices: np.ndarray) -> Batch:
        bad: list[tuple[int, str]] = []
        try:
            return Batch(self._getitems(epoch, indices), len(indices), bad)
        except Exception as e:
            good = np.ones(len(indices), dtype=bool)
            for i in range(len(indices)):  # which of them is it?
                try:
                    self._getitems(epoch, indices[i : i + 1])
                except Exception as of_one:
                    bad.append(self._unreadable(int(indices[i]), of_one))
                    good[i] = False
            if good.all():
                raise SampleError(f"samples {indices.tolist()} could not be read together: {_said(e)}") from e
        return Batch(self._getitems(epoch, indices[good]) if good.any() else None, int(good.sum()), bad)

    def _getitems(self, epoch: int, indices: np.ndarray) -> Any:
        fetching((self.seed, epoch, indices))
        try:
            data = self.dataset.__getitems__(indices)
        finally:
            fetching(None)
        return self.collate(data) if isinstance(data, list) else data

    def _unreadable(self, index: int, error: Exception) -> tuple[int, str]:
        """What to note of a bad sample; raises SampleError where none is allowed."""
        why = f"sample {index}{_path(self.dataset, index)} could not be read: {_said(error)}"
        if not self.skip_bad:
            raise SampleError(
                f"{why}\nRepair or remove it, or let up to N such samples pass with trainer.skip_bad_samples=N"
            ) from error
        return index, why


def _said(error: Exception) -> str:
    """`ValueError: no such label (at data_loaders.py:31)`: the place is the data set's own line."""
    frames = traceback.extract_tb(error.__traceback__)[1:]
    own = next((f for f in frames if f.filename != __file__), None)
    return f"{type(error).__name__}: {error}" + (f" (at {Path(own.filename).name}:{own.lineno})" if own else "")


def _path(dataset: Any, index: int) -> str:
    """' (its file)' where the data set lists its files in `samples`, as torchvision's folders do."""
    try:
        sample = dataset.samples[index]
    except (AttributeError, IndexError, KeyError, TypeError):
        return ""
    return f" ({sample[0] if isinstance(sample, (tuple, list)) else sample})"


def _held_out(n: int, split: float | int) -> int:
    """Samples that `validation_split` holds out: a float is a fraction, an int a count."""
    held_out = int(n * split) if isinstance(split, float) else split
    if held_out < 0 or held_out >= n or (isinstance(split, float) and not 0 <= split < 1):
        raise Refused(
            f"data_loader: validation_split is {split}; give a fraction from 0.0 to below 1.0, or a count of samples "
            f"from 0 to {n - 1}"
        )
    if split and not held_out:
        raise Refused(f"data_loader: validation_split {split} of {n} samples is none at all; give a larger one")
    return held_out
