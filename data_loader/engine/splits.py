"""Which samples train and which validate."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset

from data_loader.engine.changes import log
from data_loader.engine.facts import column_of, labels_of
from data_loader.engine.sampler import Permutation
from utils.errors import UsageError

SPLIT_KEY = 0  # the validation split is the same for every seed, so that runs can be compared


class Samples:
    """A part of a data set: maps positions 0 ... length - 1 to indices.

    order: the indices [length], or a random order of the whole data set, of which this part begins at `start`; None for
    0, 1, 2, ...
    """

    def __init__(self, length: int, order: Permutation | np.ndarray | None = None, start: int = 0) -> None:
        self.length, self.order, self.start = length, order, start

    def __len__(self) -> int:
        return self.length

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        if self.order is None:
            return positions
        return self.order[positions] if isinstance(self.order, np.ndarray) else self.order(positions + self.start)


def length(dataset: Any, name: str) -> int:
    """The number of samples; raises UsageError for what cannot be read by index."""
    kind = type(dataset).__name__
    by_index = hasattr(dataset, "__getitem__") or hasattr(dataset, "__getitems__")
    if isinstance(dataset, (IterableDataset, type)) or not by_index:
        what = f"the class {dataset.__name__}, not one of its data sets" if isinstance(dataset, type) else f"a {kind}"
        raise UsageError(
            f"data_loader: {name} is {what}, which cannot be read by index; a data set with __getitem__(index) and "
            f"__len__() is needed, so that a resumed run can go on in the middle of an epoch. Read a stream into a "
            f"list (list(stream) is a data set), or write it once to a file that can be read by index, such as a "
            f"memory map (numpy.load(file, mmap_mode='r'))"
        )
    try:
        return len(dataset)
    except Exception as e:
        raise UsageError(
            f"data_loader: the number of samples of {name}, a {kind}, is not known: len() raises {type(e).__name__}: "
            f"{e}; give the class a __len__ that returns it"
        ) from e


def split_of(
    loader: Any,
    validation_split: float | int,
    stratify: bool | str,
    group: str | None,
    fold: int | None,
    folds: int | None,
) -> tuple[Samples, Samples]:
    """The training and the validation samples of a loader's data set, as its options of the same names say."""
    n = length(loader.dataset, "dataset")
    if n == 0:
        raise UsageError("data_loader: the data set has no samples; check where it looks for them")
    if (fold is None) != (folds is None):
        missing = "fold" if fold is None else "folds"
        raise UsageError(f"data_loader: {missing} is missing; give both, such as fold: 0, folds: 5")
    if folds is not None and validation_split:
        raise UsageError(
            f"data_loader: folds is {folds} and validation_split is {validation_split}, but both say what validates; "
            f"leave out one of the two"
        )
    if folds is not None and not 2 <= folds <= n:
        raise UsageError(f"data_loader: folds is {folds}; give 2 to {n}, which is the number of samples")
    if folds is not None and fold is not None and not 0 <= fold < folds:
        raise UsageError(f"data_loader: fold is {fold}; the {folds} folds are numbered 0 to {folds - 1}")
    option = f"group is {group}" if group else f"stratify is {str(stratify).lower()}" if stratify else ""
    if option and folds is None and not validation_split:
        log.warning(f"data_loader: {option} has no effect without validation_split or folds: nothing is divided")
        option = ""
    if folds is None and not option:
        return split(n, validation_split)
    if folds is None:
        held_out = held_out_count(n, validation_split)
        shares = [held_out, n - held_out]
    else:
        shares = [n // folds + (i < n % folds) for i in range(folds)]
    by_column = isinstance(stratify, str)
    labels = column_of(loader, str(stratify), "stratify") if by_column else labels_of(loader) if stratify else None
    groups = column_of(loader, group, "group") if group else None
    return split_evenly(n, shares, fold or 0, labels, groups)


def split(n: int, validation_split: float | int) -> tuple[Samples, Samples]:
    """The training and the validation samples of a data set of n samples."""
    held_out = held_out_count(n, validation_split)
    order = Permutation(n, SPLIT_KEY) if held_out else None
    return Samples(n - held_out, order, held_out), Samples(held_out, order)


def split_evenly(
    n: int, shares: Sequence[int], which: int, labels: np.ndarray | None, groups: np.ndarray | None
) -> tuple[Samples, Samples]:
    """The training and the validation samples, where the data is dealt into parts, and part `which` validates.

    shares: how many samples each part is to get, n in all. labels: [n], of which each part gets its share, up to one
    sample of each. groups: [n], each of which stays in one part; then sizes and shares are as near as groups allow.
    The parts are the same for every seed. Raises UsageError if one gets no sample.
    """
    classes = np.zeros(n, np.int64) if labels is None else _classes(labels)
    part = _deal(classes, shares) if groups is None else _deal_groups(classes, groups, shares)
    if len(np.unique(part)) < len(shares):
        units = f"{n} samples" if groups is None else f"{n} samples in {len(np.unique(groups))} groups"
        raise UsageError(
            f"data_loader: {units} cannot be dealt into parts of {' and '.join(map(str, sorted(set(shares))))}: one "
            f"of the {len(shares)} would be empty; give fewer folds, a larger validation_split, or smaller groups"
        )
    train, held_out = np.flatnonzero(part != which), np.flatnonzero(part == which)
    return Samples(len(train), train), Samples(len(held_out), held_out)


def _classes(labels: np.ndarray) -> np.ndarray:
    """Labels as numbers from 0; those with fractions in ten classes of equal size, in order."""
    if labels.dtype.kind == "f" and (labels % 1 != 0).any():  # nan and inf are not whole either
        labels = np.searchsorted(np.nanquantile(labels, np.linspace(0.1, 0.9, 9)), labels)
    return np.unique(labels, return_inverse=True)[1].reshape(-1)


def _deal(classes: np.ndarray, shares: Sequence[int]) -> np.ndarray:
    """The part of each sample: sorted by class, randomly within one, they are dealt round and round."""
    n = len(classes)
    order = np.lexsort((_ranks(n), classes))
    # Part p gets its k-th sample after (k + 1/2) / share of all have been dealt: so each run of samples is shared out
    due = np.concatenate([(np.arange(share) + 0.5) / share for share in shares])
    part = np.empty(n, np.int64)
    part[order] = np.repeat(np.arange(len(shares)), shares)[np.argsort(due, kind="stable")]
    return part


def _deal_groups(classes: np.ndarray, groups: np.ndarray, shares: Sequence[int]) -> np.ndarray:
    """The part of each sample: the groups, largest first, each go where they unbalance size and classes least."""
    names, group = np.unique(groups, return_inverse=True)
    group = group.reshape(-1)
    counts = np.zeros((len(names), int(classes.max()) + 1))
    np.add.at(counts, (group, classes), 1)
    counts /= counts.sum(axis=0)  # of each class, the fraction that a group has
    sizes = np.bincount(group)
    target = np.asarray(shares)[:, None] / len(classes)
    have = np.zeros((len(shares), counts.shape[1]))
    part_of_group = np.empty(len(names), np.int64)
    for g in np.lexsort((_ranks(len(names)), -sizes)):
        # What the sum over parts and classes of (have - target)^2 / target grows by, without what is equal for all
        part_of_group[g] = p = np.argmin(((2 * have + counts[g]) * counts[g] / target).sum(axis=1))
        have[p] += counts[g]
    return part_of_group[group]


def _ranks(n: int) -> np.ndarray:
    """The place of each of n things in a random order that is the same for every seed."""
    ranks = np.empty(n, np.int64)
    ranks[Permutation(n, SPLIT_KEY)(np.arange(n))] = np.arange(n)
    return ranks


def held_out_count(n: int, validation_split: float | int) -> int:
    """How many of n samples are held out: a float is a fraction, an integer a count."""
    is_fraction = isinstance(validation_split, float)
    if not 0 <= validation_split < (1 if is_fraction else n):
        raise UsageError(
            f"data_loader: validation_split is {validation_split}; give a fraction from 0.0 to below 1.0, or a number "
            f"of samples from 0 to {n - 1}"
        )
    count = int(n * validation_split) if is_fraction else int(validation_split)
    if validation_split and not count:
        raise UsageError(
            f"data_loader: validation_split {validation_split} of {n} samples holds out no sample; give a larger one"
        )
    return count
