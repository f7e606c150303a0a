"""Metrics as sums and counts: exact over steps, ranks and restarts, and brought to the host only when they are read."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from utils import distributed
from utils.errors import Refused
from utils.tensors import to_device

FOLD = 64  # values kept on the device before they are added up


class Sums:
    """Weighted sums of named values. `add` only keeps a reference; nothing waits for the device until `read`."""

    def __init__(self) -> None:
        self._pending: dict[str, list[tuple[Tensor, int]]] = {}
        self._totals: dict[str, tuple[Any, int]] = {}  # name -> (sum, on the device until it is read; samples)

    def add(self, name: str, value: Tensor | float, size: int) -> None:
        """Add a value per sample [size], or one number that is the mean over `size` samples."""
        if not isinstance(value, Tensor):
            value = torch.tensor(float(value), dtype=torch.float64)
        if value.dim() > 1 or (value.dim() == 1 and len(value) != size):
            raise ValueError(
                f"{name}: got a value of shape {list(value.shape)} for {size} samples; return one number per sample "
                f"[{size}], or one for the batch []"
            )
        pending = self._pending.setdefault(name, [])
        pending.append((value.detach() if value.requires_grad else value, size))
        if len(pending) >= FOLD:
            self._fold(name)

    def read(self) -> dict[str, tuple[float, int]]:
        """(sum, samples) of each name on this rank. Waits for the device."""
        for name in list(self._pending):
            self._fold(name)
        self._totals = {name: (float(total), count) for name, (total, count) in self._totals.items()}
        return dict(self._totals)

    def means(self) -> dict[str, float]:
        """The mean of each name over all ranks. Waits for the device and the other ranks."""
        return means(self.read())

    def clear(self) -> None:
        self._pending.clear()
        self._totals.clear()

    def merge(self, other: Mapping[str, tuple[float, int]]) -> None:
        for name, (total, count) in other.items():
            mine = self._totals.get(name, (0.0, 0))
            self._totals[name] = (mine[0] + total, mine[1] + count)

    def state_dict(self) -> dict[str, Any]:
        """Over all ranks, so that any number of them can go on."""
        return {name: list(total) for name, total in over_ranks(self.read()).items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.clear()
        if distributed.is_main():
            self._totals = {name: (total, count) for name, (total, count) in state.items()}

    def _fold(self, name: str) -> None:
        """Add up what is pending, on the device."""
        pending = self._pending.pop(name)
        device = pending[0][0].device
        dtype = torch.float32 if device.type == "mps" else torch.float64
        per_sample = [v for v, _ in pending if v.dim()]
        of_batch = [(v, size) for v, size in pending if not v.dim()]
        total, count = self._totals.get(name, (0.0, 0))
        if per_sample:
            total = total + torch.cat(per_sample).to(dtype).sum()
        if of_batch:
            sizes = to_device(torch.tensor([size for _, size in of_batch], dtype=dtype), device)
            total = total + torch.stack([v for v, _ in of_batch]).to(dtype).mul_(sizes).sum()
        self._totals[name] = total, count + sum(size for _, size in pending)


def means(sums: Mapping[str, tuple[float, int]]) -> dict[str, float]:
    """Sums over all ranks, divided by the samples; rounded to 8 digits, below which the order of summation shows."""
    return {name: float(f"{total / count:.8g}") for name, (total, count) in over_ranks(sums).items() if count}


def over_ranks(sums: Mapping[str, tuple[float, int]]) -> dict[str, tuple[float, int]]:
    """Added up over all ranks."""
    whole = Sums()
    for of_rank in distributed.gather(dict(sums)):  # not a reduction: a rank without samples has no names
        whole.merge(of_rank)
    return whole.read()


def name_of(metric: Callable[..., Any]) -> str:
    """A metric's name in logs: that of its function or class."""
    function = getattr(metric, "func", metric)  # a functools.partial keeps it there
    return getattr(function, "__name__", type(function).__name__)


def is_object(metric: Any) -> bool:
    """Does it keep its own state (torchmetrics), or is it a function?"""
    return hasattr(metric, "update") and hasattr(metric, "compute")


def check_over_ranks(metrics: Sequence[Any]) -> None:
    """Raise Refused for a metric that would tell of one rank's samples only."""
    for metric in metrics:
        if distributed.world() > 1 and is_object(metric) and not hasattr(metric, "sync"):
            raise Refused(
                f"metrics: {name_of(metric)} keeps a state that is not added up over processes; derive it from "
                f"torchmetrics.Metric, which does that, or make it a function that returns a value per sample"
            )


class Monitor:
    """What `trainer.monitor` watches: `min val_loss` keeps the lowest, `off` nothing.

    Raises Stopped at the first validation that does not yield the value.
    """

    def __init__(self, monitor: str, early_stop: int | None) -> None:
        self.mode, self.name = (*monitor.split(), "")[:2]
        self.early_stop = early_stop
        self.best: float | None = None
        self.best_step = 0
        self.bad_count = 0  # validations since the best

    @property
    def key(self) -> str:
        """What is watched, under its name in an epoch's values: valid/loss is val_loss, train/loss is loss."""
        return re.sub("^valid/", "val_", self.name.removeprefix("train/"))

    def update(self, value: float, step: int) -> bool:
        """Take in a value; was it the best so far? NaN never is."""
        better = not math.isnan(value) and (
            self.best is None or (value < self.best if self.mode == "min" else value > self.best)
        )
        if better:
            self.best, self.best_step, self.bad_count = value, step, 0
        else:
            self.bad_count += 1
        return better

    @property
    def stop(self) -> bool:
        return self.early_stop is not None and self.bad_count >= self.early_stop

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_step": self.best_step, "bad_count": self.bad_count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best, self.best_step, self.bad_count = state["best"], state["best_step"], state["bad_count"]
