"""How often samples are drawn: by weights of classes or of samples, or so that all classes come equally often."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from data_loader.engine.facts import column_of, labels_of
from data_loader.engine.sampler import Draws
from utils.config.files import did_you_mean, nearest
from utils.errors import UsageError

SHOWN = 10  # classes that the report lists


class Weighting(NamedTuple):
    draws: Draws
    weights: np.ndarray  # of each training sample
    report: str  # what a person should know at the start


def weighting_of(loader: Any, balanced: bool, given: Any) -> Weighting | None:
    """How a loader's options `balanced` and `weights` (given) draw its training samples; None without them."""
    if not balanced and given is None:
        return None
    check_order(loader)
    taken = loader.samples(np.arange(len(loader.samples)))
    if (given is not None and not isinstance(given, (list, tuple, Mapping))) or _is_by_sample(loader, given):
        if balanced:
            raise UsageError(
                "data_loader: balanced is true, and weights has a weight for each sample; give one of the two, or "
                "weights by class"
            )
        return by_sample(_of_samples(loader, given)[taken])
    labels = labels_of(loader)[taken]
    if labels.dtype.kind == "f":
        if not np.isfinite(labels).all() or (labels % 1).any():
            raise UsageError(
                "data_loader: the labels have fractions, so they name no classes, which balanced and weights by class "
                "need; give weights for each sample, or the data set another attribute `labels`"
            )
        labels = labels.astype(np.int64)  # 0.0 and 1.0, for a loss such as BCEWithLogitsLoss
    found, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    names = [_name(loader, label) for label in found.tolist()]
    weights = _of_classes(loader, given, found, names)
    return by_class(classes.reshape(-1), names, weights / counts if balanced else weights)


def check_order(loader: Any) -> None:
    if not loader.shuffle:
        raise UsageError("data_loader: shuffle is false, but balanced and weights draw in random order; leave it out")


def by_class(classes: np.ndarray, names: Sequence[str], weights: np.ndarray) -> Weighting:
    """classes: the class of each sample, [N]. weights: of each sample of a class, [number of classes]."""
    _check(weights)
    counts = np.bincount(classes, minlength=len(names))
    expected = weights * counts * (len(classes) / (weights @ counts))
    draws = Draws(weights[classes], np.argsort(classes, kind="stable"))
    return Weighting(draws, weights[classes], report(names, expected, counts))


def by_sample(weights: np.ndarray) -> Weighting:
    """weights: of each sample, [N]."""
    _check(weights)
    most, never = weights.max() * len(weights) / weights.sum(), int((weights == 0).sum())
    return Weighting(
        Draws(weights), weights, f"{_what(len(weights))}: one up to {most:.3g} times on average, {never:,} never"
    )


def report(names: Sequence[str], expected: np.ndarray, counts: Sequence[int] | np.ndarray) -> str:
    """expected: how many samples of each an epoch draws. counts: how many there are."""
    lines = [f"{name} {e:,.0f} (has {n:,})" for name, e, n in zip(names, expected, counts, strict=True)]
    more = [f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return f"{_what(sum(counts))}: {', '.join([*lines[:SHOWN], *more])}"


def _what(n: int) -> str:
    return f"data_loader: each epoch draws {n:,} samples by weight, so some several times"


def _is_by_sample(loader: Any, given: Any) -> bool:
    """A list that is as long as the data set, and not one weight per class?"""
    n = loader.facts.get("num_classes")
    return isinstance(given, (list, tuple)) and isinstance(n, int) and len(given) == len(loader.dataset) != n


def _of_samples(loader: Any, given: Any) -> np.ndarray:
    if isinstance(given, str):
        return column_of(loader, given, "weights")
    weights = np.asarray(given.cpu() if hasattr(given, "cpu") else given)
    if weights.shape != (len(loader.dataset),):
        raise UsageError(
            f"data_loader: weights has the shape {list(weights.shape)}; give one weight for each of the "
            f"{len(loader.dataset)} samples, or a list or mapping with one for each class"
        )
    return weights


def _of_classes(loader: Any, given: Any, found: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """The weight of each class that there is, as `weights` gives it by number or by name; 1 where it does not."""
    if given is None:
        return np.ones(len(names))
    if isinstance(given, Mapping):
        known = [*names, *map(str, loader.facts.get("class_names", ()))]
        for name in map(str, given):
            if name not in known:
                raise UsageError(
                    f"data_loader: weights has '{name}'{did_you_mean(nearest(name, known))}, which is not a class; the "
                    f"classes are {', '.join(dict.fromkeys(known))}"
                )
        by_name = {str(name): weight for name, weight in given.items()}
        return np.array([by_name.get(name, 1.0) for name in names], dtype=np.float64)
    if found.dtype.kind not in "iub":
        raise UsageError(
            f"data_loader: weights is a list, which is by number of the class, but the labels are strings such as "
            f"'{found[0]}'; give a mapping from class to weight"
        )
    expected = loader.facts.get("num_classes", int(found[-1]) + 1)
    if len(given) != expected or int(found[-1]) >= len(given) or int(found[0]) < 0:
        raise UsageError(
            f"data_loader: weights has {len(given)} entries, but there are {expected} classes, with labels "
            f"{found[0]} to {found[-1]}; give one weight for each class"
        )
    return np.asarray(given, dtype=np.float64)[found.astype(np.int64)]


def _name(loader: Any, label: Any) -> str:
    """What people call the class with this label."""
    names = loader.facts.get("class_names", ())
    return str(names[label]) if isinstance(label, int) and 0 <= label < len(names) else str(label)


def _check(weights: np.ndarray) -> None:
    if weights.dtype.kind not in "fiub" or not np.isfinite(weights).all() or weights.min() < 0 or not weights.max() > 0:
        raise UsageError(
            "data_loader: weights must be numbers that are not negative, at least one of them positive; 0 leaves out"
        )
