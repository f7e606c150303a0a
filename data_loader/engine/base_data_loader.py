"""BaseDataLoader: batches, the validation split, and a position that is just a step number."""

import functools
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from data_loader.engine import generators, workers
from data_loader.engine.augmentation import BatchTransforms, Transform, augmented, normalization
from data_loader.engine.batch import Batch
from data_loader.engine.buckets import BucketSampler, check_bucket
from data_loader.engine.changes import DataState, log
from data_loader.engine.collate import collate
from data_loader.engine.facts import column_of, count_classes, facts_of, name_of
from data_loader.engine.failures import FAILURES, not_moved
from data_loader.engine.options import by_name, check_batch_size, check_options
from data_loader.engine.reader import Reader
from data_loader.engine.sampler import StepSampler
from data_loader.engine.splits import Samples, split_of
from data_loader.engine.weights import Weighting, weighting_of
from utils.errors import UsageError
from utils.seed import mix
from utils.tensors import to_device

TRANSFORM_KEY = -4  # separates the draws of `batch_transform` from those of samples
_CPU = torch.device("cpu")


class BaseDataLoader:
    """Loads any map-style Dataset: derive from it and pass your data set to `super().__init__`.

    batch_size: samples per optimizer step, over all ranks and micro-batches.
    validation_split: samples held out for validation, as a fraction or a count; the same ones for every seed.
    valid_dataset: a validation set of its own, instead of validation_split; or several, as a mapping from name.
    collate_fn: list of samples -> batch (default: the data set's `collate_fn`, if it has one, or torch's).
    batch_transform: batch -> batch, in the main process and on the run's device: for what is faster there.
    prefetch: batches that each worker reads ahead.
    resident: keep the data set on the run's device and make its batches there. It must have `to(device)`.
    eval_dataset: the same samples without augmentation, for validation (default: `dataset` itself).
    fold, folds: hold out fold number `fold` of `folds` (0, 1, ...), instead of validation_split.
    stratify: each fold and the held-out samples get their share of every class; of the values of a column, by its name.
    group: a column; samples with the same value are never divided between training and validation.
    balanced: draw samples so that all classes come equally often; those of small classes several times an epoch.
    weights: draw samples by weight: a list by class, a mapping from class (1 if not named), a column, or an array [N].
        With balanced, the shares of the classes. A repeated sample is augmented differently.
    transforms: applied in order to each training sample; eval_transforms: to those of validation and test instead
        (default: none). To the image, the first part of a sample; see augmentation.py.
    batch_transforms: applied in order to (inputs, targets) of each training batch on the run's device: MixUp, CutMix.
    bucket: steps, 50 say, whose samples are sorted by length together, so that batches need less padding (buckets.py).
        The data set has `lengths` [N].

    A data set may have `__getitems__(indices)`, indices int64 [B]: if it returns a list, that is a list of samples
    (PyTorch's own protocol) and is collated; anything else is the batch itself.

    Classes are known from `labels` or `targets` of the data set and the like (facts.py). A column is an attribute of
    the data set with a value per sample, or what its method `column(name)` returns.

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
        "weighting",
    )  # does not affect samples
    for_evaluation = False
    unlabeled: Any = None  # of data for predict.py: names, paths and columns (unlabeled.py)
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
        stratify: bool | str = False,
        group: str | None = None,
        fold: int | None = None,
        folds: int | None = None,
        balanced: bool = False,
        weights: list[float] | dict[str, float] | str | np.ndarray | torch.Tensor | None = None,
        transforms: list[Transform] | None = None,
        eval_transforms: list[Transform] | None = None,
        batch_transforms: list[Transform] | None = None,
        bucket: int = 0,
    ) -> None:
        self.dataset, self.batch_size = augmented(dataset, transforms), batch_size
        self.shuffle, self.num_workers = shuffle, num_workers
        self.batch_transforms = BatchTransforms(batch_transforms) if batch_transforms else None
        self.collate_fn = collate_fn or getattr(dataset, "collate_fn", None) or collate
        self.batch_transform = batch_transform
        self.prefetch, self.resident, self.bucket = prefetch, resident, bucket
        self.eval_dataset = augmented(dataset if eval_dataset is None else eval_dataset, eval_transforms)
        several = {name: augmented(d, eval_transforms) for name, d in by_name(valid_dataset).items()}
        self.valid_dataset, self._drawing = several.get("", several or None), (balanced, weights)
        if not hasattr(self, "facts"):  # a subclass may have set it already
            self.facts = facts_of(dataset)
        check_options(self, validation_split, folds)
        check_bucket(self)
        self.samples, self._validation = split_of(self, validation_split, stratify, group, fold, folds)
        count_classes(self)
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
        cuts = (len(self.samples), self.batch_size, self.shuffle, seed, rank, world_size, accumulate, limit)
        self.sampler = BucketSampler(self._lengths, self.bucket, *cuts) if self.bucket else StepSampler(*cuts)

    def _lengths(self, positions: np.ndarray) -> np.ndarray:
        """How long the samples at these positions are, for `bucket`."""
        return column_of(self, "lengths", "bucket")[self.samples(positions)]

    def split_validation(self) -> Any:
        """The loader of `valid_dataset`, or of the samples held out by `validation_split` or `folds`; None without any,
        and a mapping from name to loader if `valid_dataset` is one.

        Its batches come in order. Override it to return any loader, or several by name.
        """
        several = {name: self._in_order(d, Samples(len(d))) for name, d in by_name(self.valid_dataset).items()}
        if several:
            return several.get("", several)
        return self._in_order(self.eval_dataset, self._validation) if len(self._validation) else None

    def for_testing(self) -> "BaseDataLoader":
        """A loader of all samples, in order and without augmentation, whatever `shuffle` and `validation_split`."""
        loader = self._in_order(self.eval_dataset, Samples(len(self.eval_dataset)))
        loader.facts = {
            name: fact for name, fact in self.facts.items() if name != "class_counts"
        }  # of training samples
        return loader

    def _in_order(self, dataset: Any, samples: Samples) -> "BaseDataLoader":
        """A loader of these samples with this one's settings and facts, without shuffling."""
        loader = BaseDataLoader.__new__(BaseDataLoader)
        loader.__dict__.update(self.__dict__)
        loader.dataset = loader.eval_dataset = dataset
        loader.samples, loader.shuffle, loader.for_evaluation = samples, False, True
        loader.batch_transforms = None  # for training only
        loader.valid_dataset, loader._validation, loader._passes = None, Samples(0), None
        loader.weighting, loader.bucket = None, 0
        loader.configure(self.seed, device=self.device)
        return loader

    @functools.cached_property
    def weighting(self) -> Weighting | None:
        """How training samples are drawn by weight; None: each comes once an epoch."""
        return weighting_of(self, *self._drawing)

    def _train_sampler(self) -> StepSampler:
        if self.weighting is not None:
            self.sampler.draws = self.weighting.draws
        return self.sampler

    def check_shards(self) -> None:
        """Raise UsageError if a training step would be larger than the data, or too small to give every micro-batch of
        every rank a sample. Evaluation takes what there is."""
        if self.for_evaluation:
            return
        check_batch_size(self)
        s = self.sampler
        smallest = s.n // s.num_steps
        if smallest < s.world_size * s.accumulate:
            raise UsageError(
                f"data_loader: a step of {smallest} samples cannot be cut into {s.world_size} ranks x {s.accumulate} "
                f"micro-batches; raise batch_size or lower trainer.accumulate"
            )

    @property
    def size_varies(self) -> bool:
        """Can the size of a batch differ from the number of samples read for it?"""
        whole = hasattr(self.dataset, "__getitems__") and not getattr(self.dataset, "uses_sample_keys", False)
        return self.collate_fn is not collate or whole

    @property
    def normalization(self) -> Any:
        """The (mean, std) that images are normalized by, for pictures of them; None if not known."""
        return normalization(self)

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
        positions = self._train_sampler().step(step)
        return self.samples(positions if self.weighting is None else positions[0])

    def iter_steps(self, step: int) -> Generator[Batch, None, None]:
        """The micro-batches of this rank from optimizer step `step` on, without end; close it to stop its workers."""
        batches = self._train_sampler().batches(step)
        if self.weighting is None:
            return self._load((epoch, epoch, self.samples(positions)) for epoch, positions in batches)
        return self._load((epoch, epoch, self.samples(drawn), times) for epoch, (drawn, times) in batches)

    def __iter__(self) -> Iterator[Any]:
        """The data of one pass in order, each sample once."""
        for batch in self.iter_epoch():
            yield batch.data

    def iter_epoch(self, keep: bool = False) -> Iterator[Batch]:
        """The batches of this rank in one pass in order; over all ranks, each sample comes once.

        keep: keep the workers for the next pass, until `close`. They read the first batches of that pass ahead.
        """
        if not (keep and self.num_workers):
            yield from self._load((0, *wanted) for wanted in self._in_one_pass())
            return
        if self._passes is None or self._left:  # a pass that was left early cannot be continued
            self.close()
            self._passes = self._load((n, *wanted) for n in itertools.count() for wanted in self._in_one_pass())
        self._left = sum(1 for _ in self.sampler.iter_epoch())
        while self._left:
            batch = next(self._passes)
            self._left -= 1
            yield batch

    def read_batches(self, numbers: Iterable[int]) -> Generator[Batch, None, None]:
        """These whole batches of a pass in order, by number, whatever the rank: what a resumed prediction reads."""
        return self._load((0, 0, self.samples(self.sampler.batch(k))) for k in numbers)

    def names(self, indices: Sequence[int] | np.ndarray) -> list[str]:
        """The names of the samples: their files, the data set's `names`, or their numbers."""
        return [name_of(self, int(index)) for index in indices]

    def _in_one_pass(self) -> Iterator[tuple[int, np.ndarray]]:
        """(epoch, indices) of each batch of this rank, in order."""
        return ((epoch, self.samples(positions)) for epoch, positions in self.sampler.iter_epoch())

    def close(self) -> None:
        """Stop the workers that `iter_epoch` keeps."""
        if self._passes is not None:
            self._passes.close()
        self._passes, self._left = None, 0

    def _load(self, requests: Iterator[workers.Request]) -> Generator[Batch, None, None]:
        """requests: (which pass over the data, epoch, indices), and occurrences where samples are drawn by weight."""
        if self.batch_transforms is not None:
            self.batch_transforms.start(self.facts)
        self._transform_generators = generators.own_generators(self.batch_transform, "batch_transform")
        self._transform_generators += generators.own_generators(self.batch_transforms, "batch_transforms")
        return self._load_here(requests) if self.num_workers == 0 else workers.load(self, requests)

    def _load_here(self, requests: Iterator[workers.Request]) -> Generator[Batch, None, None]:
        reader = self.reader()
        for request in requests:
            if reader.dataset is not self.dataset or reader.collate_fn is not self.collate_fn:
                reader = self.reader()  # a callback replaced one of them
            yield self.to_run(reader.read(*request[1:]), request[1])

    def reader(self) -> Reader:
        return Reader(self.dataset, self.collate_fn, self.seed, self.skip_bad_samples > 0)

    def to_run(self, batch: Batch, epoch: int) -> Batch:
        """Move the batch to the run's device and apply `batch_transform`, then `batch_transforms`."""
        if batch.note and batch.note not in self._told:
            self._told.add(batch.note)
            log.warning(batch.note)
        if batch.data is not None:
            try:  # `to_device` does not wait for the device
                moving = f"moving to {self.device} failed for"
                batch.data = to_device(batch.data, self.device)
                if self.batch_transform is not None or self.batch_transforms is not None:
                    again = (batch.occurrence,) if batch.occurrence else ()
                    key = mix(self.seed, epoch, int(batch.indices[0]), TRANSFORM_KEY, *again)
                    generators.seed(key, self._transform_generators)
                if self.batch_transform is not None:
                    moving = "batch_transform failed for"
                    batch.data = self.batch_transform(batch.data)
                if self.batch_transforms is not None:
                    moving = "batch_transforms failed for"
                    batch.data = self.batch_transforms(batch.data)
            except FAILURES as e:
                raise not_moved(moving, batch, e) from e
        return batch
