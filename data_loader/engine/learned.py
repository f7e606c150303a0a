"""What is learned from the training samples alone: classes, means and deviations; and numbers derived from it."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from data_loader.engine.texts.plain_text import by_number, shown
from utils.config.files import did_you_mean, nearest
from utils.errors import DataError, UsageError

SAMPLED = 100_000  # training samples at most: a mean of them is off by 0.3% of the deviation
CHUNK = 4096  # samples read at once, unless
NUMBERS = 2**24  # they have more numbers than this


def learned_before(facts: dict[str, Any] | None, name: str, training: bool) -> Any:
    """What a training loader learned, an entry of its facts; None in training without facts, where it is learned now.

    Raises UsageError where it is missing: nothing is learned from test data.
    """
    found = (facts or {}).get(name)
    if found is None and not training:
        raise UsageError(
            "data_loader: test data needs what was learned from the training samples, which is missing; give "
            "facts=loader.facts of the training loader (test.py takes them from the checkpoint)"
        )
    return found


def training_samples(loader: Any) -> np.ndarray:
    """The indices of a loader's training samples, without those held out, in order: [N]"""
    return np.sort(loader.samples(np.arange(len(loader.samples))))


def data_sets(loader: Any) -> list[Any]:
    """Those that train, validate and evaluate, each once: with transforms, they are copies."""
    found = (loader.dataset, loader.eval_dataset, loader.valid_dataset)
    return list({id(dataset): dataset for dataset in found if dataset is not None}.values())


# --- classes


def coded(labels: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """The different labels, sorted, and which of them each sample has: int64 [N]"""
    number = {name: i for i, name in enumerate(sorted(set(labels)))}
    return list(number), np.array([number[name] for name in labels], np.int64)


def learn_classes(names: Sequence[str], codes: np.ndarray, rows: np.ndarray, place: str) -> list[str]:
    """The classes that these rows have, numbers by size, others by name. codes: which of names each sample has, [N]."""
    found = sorted((names[code] for code in np.unique(codes[rows]).tolist()), key=by_number)
    if len(found) < 2:
        raise DataError(f"{place}: all training samples are of one class, '{found[0]}'; there is nothing to learn")
    return found


def class_numbers(
    names: Sequence[str], codes: np.ndarray, classes: Sequence[str], place: Callable[[int], str]
) -> np.ndarray:
    """The number of each sample's class, [N], in few bytes. place: of a sample, for messages.

    Raises DataError for a class that the training samples do not have.
    """
    number = {name: i for i, name in enumerate(classes)}
    found = np.array([number.get(name, -1) for name in names])[codes]
    if (found < 0).any():
        row = int((found < 0).argmax())
        name = names[codes[row]]
        raise DataError(
            f"{place(row)}: the class '{name}' is in no training sample{did_you_mean(nearest(name, classes))}; they "
            f"have {shown(classes)}. Add such samples to the training data (stratify: true deals out those that there "
            f"are), or remove this one"
        )
    return found.astype(np.min_scalar_type(len(classes)))


# --- means and deviations


class Scale:
    """Standardizes rows [B, ...] by what `learn_scale` learned: float32 [B, ...]"""

    def __init__(self, learned: dict[str, Any]) -> None:
        self.mean, self.std = np.array(learned["mean"]), np.array(learned["std"])

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        return ((rows - self.mean) / self.std).astype(np.float32)


def learn_scale(read: Callable[[np.ndarray], np.ndarray], rows: np.ndarray, place: str) -> dict[str, Any]:
    """{"mean": [...], "std": [...]}, one per number of a sample, plain values for `facts`.

    read: indices [n] -> float [n, ...]. rows: the training samples [N]; if they are many, evenly spaced ones are read.
    place: what they are called. Raises DataError for a number that is not finite.
    """
    chosen = np.sort(rows)[:: -(-len(rows) // SAMPLED)]
    n, mean, squares = 0, np.float64(0), np.float64(0)
    size = max(1, min(CHUNK, NUMBERS // max(1, read(chosen[:1]).size)))
    for start in range(0, len(chosen), size):
        part = read(chosen[start : start + size]).astype(np.float64)
        wrong = ~np.isfinite(part).reshape(len(part), -1).all(axis=1)
        if wrong.any():
            row = chosen[start + int(wrong.argmax())]
            raise DataError(
                f"{place}: row {row} has a number that is infinite or not a number; correct it, or remove the row"
            )
        shift = part.mean(axis=0) - mean  # chunk by chunk: Chan et al., 1979
        mean = mean + shift * (len(part) / (n + len(part)))
        squares = squares + ((part - part.mean(axis=0)) ** 2).sum(axis=0) + shift**2 * (n * len(part) / (n + len(part)))
        n += len(part)
    deviation = np.sqrt(squares / n)
    constant = deviation <= 1e-12 * np.abs(mean)  # but for rounding
    return {"mean": mean.tolist(), "std": np.where(constant, 1.0, deviation).tolist()}
