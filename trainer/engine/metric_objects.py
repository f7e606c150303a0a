"""Metrics that are objects with a state of their own, such as those of torchmetrics: they see each batch of an
evaluation, and give one result at its end."""

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from utils.errors import Stopped, UsageError
from utils.process import group
from utils.tensors import each_tensor

KEEP_RESULTS = {"MetricTracker", "MinMaxMetric"}  # of torchmetrics
SHOWN = 10  # elements of a result on the console; metrics.jsonl and TensorBoard have all


def is_object(metric: Any) -> bool:
    """Does it keep its own state (torchmetrics), or is it a function?"""
    return hasattr(metric, "update") and hasattr(metric, "compute")


def of_torchmetrics(metric: Any) -> bool:
    return type(metric).__module__.startswith("torchmetrics")


def by_element(name: str, value: Any) -> dict[str, Tensor]:
    """A result as tensors: entries of mappings and sequences, also nested, as NAME_key and NAME_0. NumPy works too."""
    if isinstance(value, Mapping):
        entries = list(value.items())
    elif isinstance(value, (list, tuple)) and any(isinstance(v, (Tensor, Mapping, list, tuple)) for v in value):
        entries = list(enumerate(value))
    elif isinstance(value, Tensor):
        return {name: value}
    else:
        try:
            return {name: torch.as_tensor(value, dtype=torch.float64)}
        except (TypeError, ValueError, RuntimeError) as e:
            raise UsageError(
                f"metrics: {name} is {value!r:.80}; a metric returns numbers and tensors, or lists and dicts of them"
            ) from e
    return {key: v for part, inner in entries for key, v in by_element(f"{name}_{part}", inner).items()}


@contextlib.contextmanager
def explained(name: str, metric: Any, **given: Any) -> Iterator[None]:
    """Raise Stopped for an error of a metric of torchmetrics. One of your own keeps the traceback of its own line."""
    try:
        yield
    except UsageError as e:  # too late for one
        raise Stopped(str(e)) from e
    except Exception as e:
        if not of_torchmetrics(metric):
            raise
        shapes = [f"{key} {list(t.shape)} {t.dtype}" for key, t in given.items() if isinstance(t, Tensor)]
        seen = f" for {', '.join(shapes)}".replace("torch.", "") if shapes else ""
        raise Stopped(
            f"metrics: {name} failed{seen}: {str(e).rstrip('.')}; give other arguments or another metric, or derive a "
            f"class in model/metric.py whose update(outputs, targets) prepares its inputs"
        ) from e


class MetricObjects:
    """The metric objects of a config by their names in the log.

    Raises UsageError for one that cannot be reset or keeps earlier results, or whose state is not combined over ranks.
    """

    def __init__(self, objects: Mapping[str, Any], class_names: Sequence[str] = ()) -> None:
        self.objects = objects
        names = ["_".join(str(name).split()) for name in class_names]
        self._class_names = names if len(set(names)) == len(names) else []
        self._after_reset: dict[str, dict[str, Any]] = {}  # their public attributes
        self.long: set[str] = set()  # names of the elements of long results
        for name, metric in objects.items():
            if not hasattr(metric, "reset"):
                raise UsageError(
                    f"metrics: {name} has update and compute, but no reset; add one that begins a new evaluation"
                )
            kinds = {type(module).__name__ for module in _modules(metric)}
            if kept := kinds & KEEP_RESULTS:
                raise UsageError(
                    f"metrics: {min(kept)} keeps results from one evaluation to the next, and metrics.jsonl has each "
                    f"of them; give the metric inside of it"
                )
            if group.world_size() > 1 and not hasattr(metric, "sync") and not _parts(metric):
                raise UsageError(
                    f"metrics: {name} keeps a state that is not combined over processes; derive it from "
                    f"torchmetrics.Metric, which does that, or make it a function that returns a value per sample"
                )

    def reset(self) -> None:
        """Begin an evaluation. Raises Stopped where something of the evaluation before is left."""
        for name, metric in self.objects.items():
            metric.reset()
            now = {k: v for k, v in getattr(metric, "__dict__", {}).items() if not k.startswith("_")}
            if name not in self._after_reset:
                self._after_reset[name] = {k: _copy(v) for k, v in now.items()}
            for key, before in self._after_reset[name].items():
                if not _same(before, now.get(key)):
                    raise Stopped(
                        f"metrics: reset() of {name} leaves {key} at {now.get(key)}, and it was {before} at the start: "
                        f"each evaluation would count the ones before it. Set it in reset(), in torchmetrics by "
                        f"add_state; or start its name with _ if no result depends on it"
                    )

    def labels(self, n: int) -> list[str]:
        """What n elements are called: by the classes, or by number."""
        return self._class_names if len(self._class_names) == n else [str(i) for i in range(n)]

    def compute(self) -> dict[str, float]:
        """The result of each: a number NAME, a vector NAME_class or NAME_0, a matrix NAME_0_1, a mapping NAME_key."""
        values: dict[str, float] = {}
        for name, metric in self.objects.items():
            of_metric: dict[str, float] = {}
            result = _over_ranks(name, metric)
            with explained(name, metric):
                elements = by_element(name, result)
            for key, value in elements.items():
                value = value.squeeze()
                places = itertools.product(*(self.labels(n) for n in value.shape))
                of_metric |= {
                    "_".join([key, *place]): v for place, v in zip(places, value.flatten().tolist(), strict=True)
                }
            if len(of_metric) > SHOWN:
                self.long |= of_metric.keys()
            values |= of_metric
        return {name: float(value) for name, value in values.items()}

    def short(self, values: Mapping[str, float]) -> dict[str, float]:
        """Without the elements of long results: for the console. Of validation sets, the names have a prefix."""
        ends = tuple(self.long)
        return {name: value for name, value in values.items() if not (ends and name.endswith(ends))}


def _parts(metric: Any) -> list[Any]:
    """The metric and those in it that have a state of torchmetrics: a MetricCollection or a wrapper has none itself."""
    return [module for module in _modules(metric) if hasattr(module, "dist_sync_fn")]


def _modules(metric: Any) -> list[Any]:
    return [*metric.modules()] if isinstance(metric, nn.Module) else [metric]


def _over_ranks(name: str, metric: Any) -> Any:
    """The result over the samples of all ranks, in rank order.

    torchmetrics gathers the tensors of a list one by one, which fails where ranks have lists of other lengths, as those
    of MeanAveragePrecision are, with an entry per image. So all states are gathered here, lists are joined, and its own
    gathering has less to do.
    """
    parts = _parts(metric) if group.world_size() > 1 else []
    kept = [(part, part.dist_sync_fn, part.metric_state) for part in parts]
    mine = [each_tensor(Tensor.cpu, state) for _, _, state in kept]
    gathered: dict[int, list[Tensor]] = {}  # a tensor by its id: metrics of a collection may share theirs
    try:
        for (part, _, state), of_ranks in zip(kept, zip(*group.gather(mine), strict=True), strict=True):
            part.dist_sync_fn = lambda tensor, group=None: gathered.get(id(tensor), [tensor])
            for key, value in state.items():
                if isinstance(value, Tensor):
                    gathered[id(value)] = [of_rank[key].to(value.device) for of_rank in of_ranks]
                elif isinstance(value, list):
                    joined = [entry for of_rank in of_ranks for entry in of_rank[key]]
                    setattr(part, key, each_tensor(lambda t, device=part.device: t.to(device), joined))  # type: ignore[misc]
        with explained(name, metric):
            return metric.compute()
    finally:  # no rank keeps the samples of the others
        for part, own_sync, state in kept:
            part.dist_sync_fn = own_sync
            for key, value in state.items():
                setattr(part, key, value)


def _copy(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, np.ndarray):
        return value.copy()
    return list(value) if isinstance(value, list) else value


def _same(a: Any, b: Any) -> bool:
    """Are two values equal, as far as they are numbers, tensors, arrays, or lists of those? Anything else may be."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and torch.equal(torch.nan_to_num(a.cpu()), torch.nan_to_num(b.cpu()))
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return np.array_equal(a, b, equal_nan=a.dtype.kind in "fc")
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    numbers = isinstance(a, (int, float)) and isinstance(b, (int, float))
    return not numbers or a == b or (a != a and b != b)
