"""Several training sets in one: each contributes its share of every epoch, whatever its size."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data_loader.engine.base_data_loader import BaseDataLoader
from data_loader.engine.options import by_name
from data_loader.engine.sampler import Draws
from data_loader.engine.splits import Samples
from data_loader.engine.weights import Weighting, check_order, report
from utils.errors import UsageError
from utils.seed import fetching_part
from utils.tensors import each_tensor, to_device


class MixtureDataLoader(BaseDataLoader):
    """Draws from several data loaders: loaders: {clean: {type: NAME, args: {...}}, web: {...}}.

    weights: the share of each, {clean: 3, web: 1}; None: by size, so that each sample comes once an epoch. An epoch has
    as many samples as all loaders together; samples of a small one are repeated with new augmentation.

    Each loader may hold out samples of its own, which validate under its name: val_clean_loss. The test data is that of
    all loaders. A `collate_fn` and a `batch_transform` are those of the first loader; the others must be of its class,
    or have none. Raises UsageError if the loaders do not go together.
    """

    def __init__(
        self,
        loaders: dict[str, type[BaseDataLoader]],
        weights: dict[str, float] | None = None,
        batch_size: int = 64,
        training: bool = True,
        **kwargs: Any,
    ) -> None:
        given: dict[str, Any] = {"batch_size": 1}  # which fits any number of samples
        if not training:
            given["training"] = False
        self.loaders = {name: build(**given) for name, build in loaders.items()}
        self._shares = _shares(self.loaders, weights)
        if mixing := [name for name, loader in self.loaders.items() if loader.batch_transforms is not None]:
            raise UsageError(
                f"data_loader: {', '.join(mixing)} has batch_transforms, but a batch has samples of all loaders; give "
                f"them to {type(self).__name__}"
            )
        of_all = list(self.loaders.values())
        parts = [loader.samples if training else Samples(len(loader.eval_dataset)) for loader in of_all]
        self.facts = _facts(self.loaders)
        super().__init__(
            _mixed([loader.dataset if training else loader.eval_dataset for loader in of_all], parts),
            batch_size,
            eval_dataset=_mixed([loader.eval_dataset for loader in of_all], parts),
            collate_fn=_shared(self.loaders, "collate_fn"),
            batch_transform=_shared(self.loaders, "batch_transform"),
            validation_split=0.0,
            valid_dataset=None,
            stratify=False,
            group=None,
            fold=None,
            folds=None,
            balanced=False,
            bucket=0,
            **kwargs,
        )

    def split_validation(self) -> Any:
        """What each loader holds out, by the loader's name."""
        found = {}
        for name, loader in self.loaders.items():
            for inner, held_out in by_name(loader.split_validation()).items():
                held_out.batch_size, held_out.num_workers = self.batch_size, self.num_workers
                held_out.configure(self.seed, device=self.device)
                found[f"{name}_{inner}" if inner else name] = held_out
        return found or None

    @functools.cached_property
    def weighting(self) -> Weighting | None:
        """The shares of the loaders, and within each one its own `balanced` or `weights`."""
        own = [loader.weighting for loader in self.loaders.values()]
        if self._shares is None and not any(own):
            return None
        check_order(self)
        counts = [len(loader.samples) for loader in self.loaders.values()]
        shares = np.asarray(counts if self._shares is None else self._shares, dtype=np.float64)
        weights, order, start = [], [], 0
        for share, count, inner in zip(shares, counts, own, strict=True):
            of_samples = np.ones(count) if inner is None else inner.weights
            inner_order = None if inner is None else inner.draws.order
            weights.append(of_samples * (share / of_samples.sum()))
            order.append(start + (np.arange(count) if inner_order is None else inner_order))
            start += count
        whole = np.concatenate(weights)
        text = report(list(self.loaders), shares / shares.sum() * start, counts)
        return Weighting(Draws(whole, np.concatenate(order)), whole, text)


class Mixed(Dataset[Any]):
    """Parts of several data sets, one after another."""

    def __init__(self, datasets: Sequence[Any], parts: Sequence[Samples]) -> None:
        self.datasets, self.parts = list(datasets), list(parts)
        self.ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> Any:
        which = int(np.searchsorted(self.ends, index, side="right"))
        return self.datasets[which][int(self._inner(which, np.array([index]))[0])]

    def _inner(self, which: int, indices: np.ndarray) -> np.ndarray:
        """The indices within one of the data sets."""
        return self.parts[which](indices - (self.ends[which - 1] if which else 0))


class MixedBatches(Mixed):
    """The same of data sets that make whole batches, with the keys of their samples."""

    uses_sample_keys = True

    def __getitems__(self, indices: Sequence[int] | np.ndarray) -> Any:
        indices = np.asarray(indices)
        origin = np.searchsorted(self.ends, indices, side="right")
        batches, places = [], []
        for which in np.unique(origin).tolist():
            at = np.flatnonzero(origin == which)
            with fetching_part(at):
                batches.append(self.datasets[which].__getitems__(self._inner(which, indices[at])))
            places.append(at)
        return _merged(batches, torch.from_numpy(np.argsort(np.concatenate(places))))

    def to(self, device: torch.device) -> None:
        for dataset in self.datasets:
            dataset.to(device)

    @property
    def in_memory(self) -> bool:
        return all(getattr(dataset, "in_memory", False) for dataset in self.datasets)


def _mixed(datasets: Sequence[Any], parts: Sequence[Samples]) -> Mixed:
    at_once = all(getattr(dataset, "uses_sample_keys", False) for dataset in datasets)
    return (MixedBatches if at_once else Mixed)(datasets, parts)


def _merged(batches: Sequence[Any], order: Tensor) -> Any:
    """Several batches of the same structure as one, in this order."""
    if len(batches) == 1:
        return batches[0]
    columns: list[list[Tensor]] = []
    for batch in batches:
        columns.append([])
        each_tensor(lambda tensor: columns[-1].append(tensor) or tensor, batch)  # type: ignore[func-returns-value]
    merged = iter([torch.cat(parts)[to_device(order, parts[0].device)] for parts in zip(*columns, strict=True)])
    return each_tensor(lambda _: next(merged), batches[0])


def _shares(loaders: dict[str, BaseDataLoader], weights: dict[str, float] | None) -> list[float] | None:
    if not loaders:
        raise UsageError("data_loader: loaders names no data loader; give some, such as {clean: {type: NAME}}")
    if weights is None:
        return None
    if weights.keys() != loaders.keys() or min(weights.values()) < 0 or not 0 < max(weights.values()) < math.inf:
        raise UsageError(
            f"data_loader: weights is {weights}; give each of {', '.join(loaders)} a number that is not negative, "
            f"at least one of them more than 0"
        )
    return [weights[name] for name in loaders]


def _shared(loaders: dict[str, BaseDataLoader], option: str) -> Any:
    """What all loaders have in common: they are of one class, or the same object, or normalize alike."""
    found = {name: getattr(loader, option) for name, loader in loaders.items()}
    first, *others = found.values()
    normalized = {name: _normalization(value) for name, value in found.items()}
    if None not in normalized.values():
        if len(set(normalized.values())) > 1:
            raise UsageError(
                f"data_loader: loaders with several means and stds cannot be mixed ({normalized}), as a batch has "
                f"samples of all; give all the same mean and std"
            )
    elif any(other is not first for other in others) and len({type(loader) for loader in loaders.values()}) > 1:
        have = ", ".join(name for name, value in found.items() if value is not None)
        raise UsageError(
            f"data_loader: loaders of several classes cannot be mixed, as their {option} differs (of {have}), and a "
            f"batch has samples of all; let each sample come in the same form from its data set, without a {option}"
        )
    return first


def _normalization(transform: Any) -> tuple[Any, ...] | None:
    """The kind, mean and std of a batch_transform that normalizes images; None for any other."""
    normalize: Any = getattr(transform, "normalize", None)
    if not hasattr(normalize, "mean"):
        return None
    return type(transform).__name__, tuple(normalize.mean), tuple(normalize.std)


def _facts(loaders: dict[str, BaseDataLoader]) -> dict[str, Any]:
    """The facts of the first loader, with the class counts of all. Raises UsageError if their classes differ."""
    (first_name, first), *others = loaders.items()
    facts = dict(first.facts)
    for name, loader in others:
        if loader.facts.get("class_names") != first.facts.get("class_names"):
            raise UsageError(
                f"data_loader: the classes of {name} are {loader.facts.get('class_names')}, those of {first_name} "
                f"{first.facts.get('class_names')}; loaders that are mixed need the same classes, in the same order"
            )
    counts = [loader.facts["class_counts"] for loader in loaders.values() if "class_counts" in loader.facts]
    if len(counts) == len(loaders):
        facts["class_counts"] = np.sum(counts, axis=0).tolist()
    return facts
