"""BaseDataLoader: batches, the validation split, and a position that is nothing but a step number."""

import itertools
from collections.abc import Callable, Generator, Iterator
from typing import Any

import numpy as np
import torch

from data_loader.engine import generators, workers
from data_loader.engine.batch import Batch
from data_loader.engine.changes import DataState, log
from data_loader.engine.collate import collate
from data_loader.engine.facts import facts_of
from data_loader.engine.failures import FAILURES, not_moved
from data_loader.engine.reader import Reader
from data_loader.engine.sampler import StepSampler
from data_loader.engine.splits import Samples, length, split
from utils.errors import UsageError
from utils.seed import mix
from utils.tensors import to_device

TRANSFORM_KEY = -4  # what `batch_transform` draws is drawn apart from what samples draw
_CPU = torch.device("cpu")


class BaseDataLoader:
    """Loads any map-style Dataset: derive from it and pass your data set to `super().__init__`.

    batch_size: samples per optimizer step, over all ranks and micro-batches.
    validation_split: samples held out for validation, as a fraction or a count; the same ones for every seed.
    valid_dataset: a validation set of its own, instead of validation_split.
    collate_fn: list of samples -> batch.
    batch_transform: batch -> batch, in the main process and on the run's device: for what is faster there.
    prefetch: batches that each worker reads ahead.
    resident: keep the data set on the run's device and make its batches there. It must have `to(device)`.
    eval_dataset: the same samples without augmentation, for validation (default: `dataset` itself).

    A data set may have `__getitems__(indices)`, indices int64 [B]: if it returns a list, that is a list of samples
    (PyTorch's own protocol) and is collated; anything else is the batch itself.

    Draws of torch, NumPy and Python are seeded for each sample, and so are random generators that the data set owns. A
    `__getitems__` that returns batches is seeded once per batch, and has `utils.seed.sample_keys()` for each sample;
    with the attribute `uses_sample_keys = True` it is not seeded, which saves 10 us.
    A callback may change attributes of the data set (`trainer.data_loader.dataset.difficulty = 2`): the next step is
    read with it, for which workers are started again (for what changes inside arrays and long lists, at the next
    epoch). Numbers, strings and lists of them are saved in checkpoints. Not noticed: global variables, shared memory.
    A `collate_fn` may drop or add samples: what it returns is counted.

    Raises UsageError if the data set cannot be read by index, or the split or the batch size does not fit it.
    """

    facts: dict[str, Any]  # num_classes, class_names, ...: fill the parameters of these names in model, loss, metrics
    changes_by_itself = (
        "_passes",
        "_left",
        "_told",
        "_transform_generators",
        "sampler",
        "facts",
    )  # nothing that samples depend on
    _passes: Generator[Batch, None, None] | None = None  # pass after pass, from the workers that iter_epoch keeps
    _left = 0  # batches of the current pass that have not been read

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        shuffle: bool = True,
        validation_split: float | int = 0.0,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        eval_dataset: Any = None,
        batch_transform: Callable[[Any], Any] | None = None,
        prefetch: int = 2,
        resident: bool = False,
        valid_dataset: Any = None,
    ) -> None:
        self.dataset, self.batch_size, self.shuffle, self.num_workers = dataset, batch_size, shuffle, num_workers
        self.collate_fn, self.batch_transform = collate_fn or collate, batch_transform
        self.prefetch, self.resident = prefetch, resident
        self.eval_dataset = dataset if eval_dataset is None else eval_dataset
        self.valid_dataset = valid_dataset
        if not hasattr(self, "facts"):  # a subclass may have set it already
            self.facts = facts_of(dataset)
        self._check_options(validation_split)
        self.samples, self._validation = split(length(dataset, "dataset"), validation_split)
        self._check_batch_size()
        self.configure()

    def configure(
        self,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        accumulate: int = 1,
        limit: int | None = None,
        skip_bad_samples: int = 0,
        device: torch.device = _CPU,
    ) -> None:
        """Set what the run decides, not the data set.

        accumulate: micro-batches per step. limit: steps per epoch. skip_bad_samples: unreadable samples allowed.
        """
        self.close()
        self._told = set[str]()
        self.seed, self.skip_bad_samples, self.device = seed, skip_bad_samples, device
        if self.resident:
            self.dataset.to(device)
            self.eval_dataset.to(device)
        self.sampler = StepSampler(
            len(self.samples), self.batch_size, self.shuffle, seed, rank, world_size, accumulate, limit
        )

    def split_validation(self) -> "BaseDataLoader | None":
        """The loader of `valid_dataset`, or of the samples held out by `validation_split`; None without both.

        Its batches come in order. Override it to return any loader.
        """
        if self.valid_dataset is not None:
            return self._in_order(self.valid_dataset, Samples(len(self.valid_dataset)))
        if len(self._validation):
            return self._in_order(self.eval_dataset, self._validation)
        return None

    def for_testing(self) -> "BaseDataLoader":
        """A loader of all samples, in order and without augmentation, whatever `shuffle` and `validation_split`."""
        return self._in_order(self.eval_dataset, Samples(len(self.eval_dataset)))

    def _in_order(self, dataset: Any, samples: Samples) -> "BaseDataLoader":
        """A loader of these samples with this one's settings and facts, without shuffling."""
        loader = BaseDataLoader.__new__(BaseDataLoader)
        loader.__dict__.update(self.__dict__)
        loader.dataset = loader.eval_dataset = dataset
        loader.samples, loader.shuffle = samples, False
        loader.valid_dataset, loader._validation, loader._passes = None, Samples(0), None
        loader.configure(self.seed, device=self.device)
        return loader

    def check_shards(self) -> None:
        """Raise UsageError if a step is too small to give every micro-batch of every rank a sample."""
        s = self.sampler
        smallest = s.n // s.num_steps
        if smallest < s.world_size * s.accumulate:
            raise UsageError(
                f"data_loader: a step of {smallest} samples cannot be cut into {s.world_size} ranks x {s.accumulate} "
                f"micro-batches; raise batch_size or lower trainer.accumulate"
            )

    @property
    def size_varies(self) -> bool:
        """May a batch have another number of samples than were read for it?"""
        whole = hasattr(self.dataset, "__getitems__") and not getattr(self.dataset, "uses_sample_keys", False)
        return self.collate_fn is not collate or whole

    def data_state(self) -> DataState:
        """For checkpoints: what callbacks change from now on, in the data set and what it refers to."""
        return DataState(self)

    def __getstate__(self) -> dict[str, Any]:
        """For workers, where `collate_fn` is a method of this loader."""
        return {**self.__dict__, "_passes": None, "_left": 0}

    @property
    def steps_per_epoch(self) -> int:
        return self.sampler.steps_per_epoch

    def __len__(self) -> int:
        return self.sampler.steps_per_epoch

    def indices(self, step: int) -> np.ndarray:
        """The samples of one global step, over all ranks: int64 [B]."""
        return self.samples(self.sampler.step(step))

    def iter_steps(self, step: int) -> Generator[Batch, None, None]:
        """The micro-batches of this rank from optimizer step `step` on, without end; close it to stop its workers."""
        return self._load((epoch, epoch, positions) for epoch, positions in self.sampler.batches(step))

    def __iter__(self) -> Iterator[Any]:
        """The data of one pass in order, each sample once."""
        for batch in self.iter_epoch():
            yield batch.data

    def iter_epoch(self, keep: bool = False) -> Iterator[Batch]:
        """The batches of this rank in one pass in order; over all ranks, each sample comes once.

        keep: keep the workers for the next pass, until `close`. They read the first batches of that pass ahead.
        """
        if not (keep and self.num_workers):
            yield from self._load((0, *batch) for batch in self.sampler.iter_epoch())
            return
        if self._passes is None or self._left:  # a pass that was left early cannot be continued
            self.close()
            self._passes = self._load((n, *batch) for n in itertools.count() for batch in self.sampler.iter_epoch())
        self._left = sum(1 for _ in self.sampler.iter_epoch())
        while self._left:
            batch = next(self._passes)
            self._left -= 1
            yield batch

    def close(self) -> None:
        """Stop the workers that `iter_epoch` keeps."""
        if self._passes is not None:
            self._passes.close()
        self._passes, self._left = None, 0

    def _load(self, batches: Iterator[tuple[int, int, np.ndarray]]) -> Generator[Batch, None, None]:
        """batches: (which pass over the data, epoch, positions)."""
        self._transform_generators = generators.own_generators(self.batch_transform, "batch_transform")
        requests = ((number, epoch, self.samples(positions)) for number, epoch, positions in batches)
        return self._load_here(requests) if self.num_workers == 0 else workers.load(self, requests)

    def _load_here(self, requests: Iterator[workers.Request]) -> Generator[Batch, None, None]:
        reader = self.reader()
        for _, epoch, indices in requests:
            if reader.dataset is not self.dataset or reader.collate_fn is not self.collate_fn:
                reader = self.reader()  # a callback replaced one of them
            yield self.to_run(reader.read(epoch, indices), epoch)

    def reader(self) -> Reader:
        return Reader(self.dataset, self.collate_fn, self.seed, self.skip_bad_samples > 0)

    def to_run(self, batch: Batch, epoch: int) -> Batch:
        """Move the batch to the run's device and apply `batch_transform`."""
        if batch.note and batch.note not in self._told:
            self._told.add(batch.note)
            log.warning(batch.note)
        if batch.data is not None:
            try:  # `to_device` does not wait for the device
                moving = f"moving to {self.device} failed for"
                batch.data = to_device(batch.data, self.device)
                if self.batch_transform is not None:
                    moving = "batch_transform failed for"
                    key = mix(self.seed, epoch, int(batch.indices[0]), TRANSFORM_KEY)
                    generators.seed(key, self._transform_generators)
                    batch.data = self.batch_transform(batch.data)
            except FAILURES as e:
                raise not_moved(moving, batch, e) from e
        return batch

    def _check_options(self, validation_split: float | int) -> None:
        if self.prefetch < 1:
            raise UsageError(f"data_loader: prefetch is {self.prefetch}; give 1 or more batches per worker")
        if self.valid_dataset is not None:
            if validation_split:
                raise UsageError(
                    f"data_loader: validation_split is {validation_split}, but the loader has a validation set of its "
                    f"own (valid_dataset); set validation_split to 0"
                )
            if not length(self.valid_dataset, "valid_dataset"):
                raise UsageError("data_loader: valid_dataset has no samples; leave it out, or check its path")
        if self.resident:
            self._check_resident()
        if length(self.dataset, "dataset") != length(self.eval_dataset, "eval_dataset"):
            raise ValueError(
                f"eval_dataset has {len(self.eval_dataset)} samples; it must have the {len(self.dataset)} samples of "
                f"dataset, in the same order (a different validation set is valid_dataset)"
            )

    def _check_resident(self) -> None:
        if self.num_workers:
            raise UsageError(
                f"data_loader: resident is true and num_workers is {self.num_workers}, but workers cannot read data on "
                f"a device; leave out one of the two"
            )
        for dataset in (self.dataset, self.eval_dataset, self.valid_dataset):
            if dataset is not None and not hasattr(dataset, "to"):
                raise UsageError(
                    f"data_loader: a {type(dataset).__name__} cannot be resident, because it has no `to(device)`; "
                    f"leave out resident, or use a data set in memory such as ImageTensors of data_loader/vision.py"
                )

    def _check_batch_size(self) -> None:
        if self.batch_size < 1:
            raise UsageError(f"data_loader: batch_size is {self.batch_size}; give 1 or more")
        if self.batch_size > len(self.samples):
            held_out = len(self._validation)
            why = f" ({len(self.dataset)} minus {held_out} for validation)" if held_out else ""
            raise UsageError(
                f"data_loader: batch_size {self.batch_size} is more than the {len(self.samples)} samples of the data "
                f"set{why}; give {len(self.samples)} or less"
            )
