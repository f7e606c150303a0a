"""Which samples train and which validate."""

from typing import Any

import numpy as np
from torch.utils.data import IterableDataset

from data_loader.engine.sampler import Permutation
from utils.errors import UsageError

SPLIT_KEY = 0  # the validation split is the same for every seed, so that runs can be compared


class Samples:
    """A part of a data set: maps positions 0 ... length - 1 to indices.

    order: a random order of the whole data set, of which this part begins at `start`; None for 0, 1, 2, ...
    """

    def __init__(self, length: int, order: Permutation | None = None, start: int = 0) -> None:
        self.length, self.order, self.start = length, order, start

    def __len__(self) -> int:
        return self.length

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        return positions if self.order is None else self.order(positions + self.start)


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


def split(n: int, validation_split: float | int) -> tuple[Samples, Samples]:
    """The training and the validation samples of a data set of n samples."""
    if n == 0:
        raise UsageError("data_loader: the data set has no samples; check where it looks for them")
    held_out = held_out_count(n, validation_split)
    order = Permutation(n, SPLIT_KEY) if held_out else None
    return Samples(n - held_out, order, held_out), Samples(held_out, order)


def held_out_count(n: int, validation_split: float | int) -> int:
    """How many of n samples are held out: a float is a fraction, an integer a count."""
    is_fraction = isinstance(validation_split, float)
    count = int(n * validation_split) if is_fraction else int(validation_split)
    if count < 0 or count >= n or (is_fraction and not 0 <= validation_split < 1):
        raise UsageError(
            f"data_loader: validation_split is {validation_split}; give a fraction from 0.0 to below 1.0, or a number "
            f"of samples from 0 to {n - 1}"
        )
    if validation_split and not count:
        raise UsageError(
            f"data_loader: validation_split {validation_split} of {n} samples holds out no sample; give a larger one"
        )
    return count
