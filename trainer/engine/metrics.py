"""Metrics as sums and counts: exact over steps, ranks and restarts, and brought to the host only when they are read."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from logger.console import log
from trainer.engine.metric_objects import MetricObjects, by_element, explained, is_object, of_torchmetrics
from trainer.engine.outputs import call_with_outputs, main_output
from utils.errors import Stopped
from utils.process import group
from utils.tensors import to_device

MAX_CLASSES = 100  # of a metric that is a function and returns a value per class: more are rather pixels or tokens
FOLD = 64  # values kept on the device before they are added up
Number = float | Tensor


class Sums:
    """Weighted sums of named values. `add` only keeps a reference; nothing waits for the device until `read`."""

    def __init__(self) -> None:
        self._pending: dict[str, list[tuple[Tensor, Number]]] = {}
        self._totals: dict[str, tuple[Any, Any]] = {}  # name -> (sum, weight): on the device until they are read

    def add(self, name: str, value: Number, size: int, weight: Number | None = None) -> None:
        """Add a value per sample [size], or one number that is a mean over `weight` (by default, the samples)."""
        if not isinstance(value, Tensor):
            value = torch.as_tensor(value, dtype=torch.float64)
        per_sample = value.dim() > 0
        if per_sample and value.shape != (size,):
            if value.numel() != 1:
                raise ValueError(
                    f"{name}: got a value of shape {list(value.shape)} for {size} samples; return one number per "
                    f"sample [{size}], or one for the batch []"
                )
            value, per_sample = value.reshape(()), False
        pending = self._pending.setdefault(name, [])
        counts = weight is None or per_sample
        pending.append((value.detach() if value.requires_grad else value, size if counts else weight))  # type: ignore[arg-type]
        if len(pending) >= FOLD:
            self._fold(name)

    def read(self) -> dict[str, tuple[float, float]]:
        """(sum, weight) of each name on this rank. Waits for the device."""
        for name in list(self._pending):
            self._fold(name)
        self._totals = {name: (float(total), _plain(count)) for name, (total, count) in self._totals.items()}
        return dict(self._totals)

    def means(self) -> dict[str, float]:
        """The mean of each name over all ranks. Waits for the device and the other ranks."""
        return means(self.read())

    def clear(self) -> None:
        self._pending.clear()
        self._totals.clear()

    def merge(self, other: Mapping[str, tuple[Any, Any]]) -> None:
        for name, (total, count) in other.items():
            mine = self._totals.get(name, (0.0, 0))
            self._totals[name] = (mine[0] + total, mine[1] + count)

    def take(self, other: "Sums") -> None:
        """Add the sums of another object, which must not be used afterwards. Does not wait for the device."""
        self.merge(other._totals)
        for name, pending in other._pending.items():
            self._pending.setdefault(name, []).extend(pending)
            if len(self._pending[name]) >= FOLD:
                self._fold(name)

    def state_dict(self) -> dict[str, Any]:
        """Summed over all ranks, so that any number of them can continue."""
        return {name: list(total) for name, total in over_ranks(self.read()).items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.clear()
        if group.is_main():
            self._totals = {name: (total, count) for name, (total, count) in state.items()}

    def _fold(self, name: str) -> None:
        """Add up what is pending, on the device."""
        pending = self._pending.pop(name)
        device = pending[0][0].device
        dtype = torch.float32 if device.type == "mps" else torch.float64
        per_sample = [v for v, _ in pending if v.dim()]
        of_batch = [(v, weight) for v, weight in pending if not v.dim()]
        total, count = self._totals.get(name, (0.0, 0))
        if per_sample:
            total = total + torch.cat(per_sample).to(dtype).sum()
        if of_batch:
            weights = _stacked([weight for _, weight in of_batch], dtype, device)
            products = torch.stack([v for v, _ in of_batch]).to(dtype) * weights
            total = total + products.masked_fill_(weights == 0, 0).sum()  # a mean over nothing is NaN
        self._totals[name] = total, count + sum(weight for _, weight in pending)


def _stacked(weights: Sequence[Number], dtype: torch.dtype, device: torch.device) -> Tensor:
    if any(isinstance(weight, Tensor) for weight in weights):
        return torch.stack([torch.as_tensor(weight, device=device).to(dtype) for weight in weights])
    return to_device(torch.tensor(weights, dtype=dtype), device)


def _plain(count: Number) -> float:
    return count if isinstance(count, (int, float)) else count.item()


def means(sums: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Sums over all ranks, divided by the weights; rounded to 8 digits, below which the order of summation shows."""
    return {name: float(f"{total / count:.8g}") for name, (total, count) in over_ranks(sums).items() if count}


def over_ranks(sums: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """Added up over all ranks."""
    whole = Sums()
    for of_rank in group.gather(dict(sums)):  # not a reduction: a rank without samples has no names
        whole.merge(of_rank)
    return whole.read()


def _call(function: Callable[..., Any], outputs: Any, targets: Any) -> Any:
    """A metric gets float32 and is computed in it, whatever the precision of the model."""

    def in_float32(outputs: Any, targets: Any) -> Any:
        low = isinstance(outputs, Tensor) and outputs.dtype in (torch.bfloat16, torch.float16)
        return function(outputs.float() if low else outputs, targets)

    return call_with_outputs(in_float32, outputs, targets)


def samples(outputs: Any, targets: Any) -> int | None:
    """The number of samples in a batch; None where it does not show. Targets may be a dict, with an entry per task."""
    for part in (targets, main_output(outputs), *(targets.values() if isinstance(targets, Mapping) else ())):
        if isinstance(part, Tensor) and part.dim():
            return len(part)
    return len(targets) if isinstance(targets, Sequence) else None


class Metrics:
    """The metrics of the config. Calling it gives their values for one batch; those that are objects see each batch of
    an evaluation, and give their values at its end. They get outputs in float32, whatever the precision of the model.

    A vector or a mapping has a value per element: NAME_0, or NAME_class where there is one for each class; NAME_key.
    """

    def __init__(
        self,
        metrics: Sequence[Any],
        device: torch.device,
        names: Sequence[str],
        mixing: Any = None,
        class_names: Sequence[str] = (),
    ) -> None:
        """names: those in the log. mixing: the loader's batch_transforms; of labels that they mixed in training,
        metrics get the larger one."""
        moved = [(name, m.to(device) if hasattr(m, "to") else m) for name, m in zip(names, metrics, strict=True)]
        self.functions = {name: m for name, m in moved if not is_object(m)}
        self.objects = {name: m for name, m in moved if is_object(m)}
        self._device, self._mixing = device, mixing
        self._evaluating = False
        self._untried = {name: m for name, m in self.objects.items() if of_torchmetrics(m)}
        self._usual: set[str] = set()  # functions that return a value per sample, or a mean
        self._classes: dict[str, int] = {}  # of the functions that return a vector; 0: it has a value per sample
        self._stateful = MetricObjects(self.objects, class_names)

    def __call__(self, outputs: Any, targets: Any) -> dict[str, Tensor]:
        """The values of the functions: per sample [B], or the mean over the batch []."""
        if self._mixing is not None and not self._evaluating:
            targets = self._mixing.labels(targets)
        if self._untried and not self._evaluating:
            self._try(outputs, targets)
        plain = type(outputs) is Tensor and outputs.dtype == torch.float32 and not self._autocasts()
        if not plain or (self._evaluating and self.objects):
            return self._general(outputs, targets)
        outputs = outputs.detach()
        values = {name: function(outputs, targets) for name, function in self.functions.items()}
        for name, value in values.items():  # mostly a value per sample; what is done for others takes ten times as long
            if name not in self._usual or type(value) is not Tensor or value.shape[:1] != outputs.shape[: value.dim()]:
                return self._by_name(values, samples(outputs, targets))
        return values

    def _autocasts(self) -> bool:
        return self._device.type != "meta" and torch.is_autocast_enabled(self._device.type)

    @torch.no_grad()
    def _try(self, outputs: Any, targets: Any) -> None:
        """Show the first batch of training to the objects, and warn of those that fail: not only after an epoch."""
        untried, self._untried = self._untried, {}
        with torch.random.fork_rng([self._device] if self._device.type == "cuda" else []):
            for name, metric in untried.items():
                try:
                    with explained(name, metric, outputs=main_output(outputs), targets=targets):
                        _call(metric.update, outputs, targets)
                except Stopped as e:
                    log.warning(f"on a batch of training, as it would in a validation of such batches: {e}")
                metric.reset()

    @torch.no_grad()
    def _general(self, outputs: Any, targets: Any) -> dict[str, Tensor]:
        """Of any outputs, in float32; objects see the batch."""
        with torch.autocast(self._device.type, enabled=False) if self._autocasts() else contextlib.nullcontext():
            values = {name: _call(function, outputs, targets) for name, function in self.functions.items()}
            if self._evaluating:
                for name, metric in self.objects.items():
                    with explained(name, metric, outputs=main_output(outputs), targets=targets):
                        _call(metric.update, outputs, targets)
        return self._by_name(values, samples(outputs, targets))

    def _by_name(self, values: Mapping[str, Any], size: int | None) -> dict[str, Tensor]:
        """Each result by its name; those of several values by a name for each. size: the samples, where known."""
        named: dict[str, Tensor] = {}
        for name, value in values.items():
            found = by_element(name, value)
            for key, element in found.items():
                named |= self._by_class(key, element, size)
            if named.keys() >= found.keys():
                self._usual.add(name)
        return named

    def _by_class(self, name: str, value: Tensor, size: int | None) -> dict[str, Tensor]:
        """A value per class, [C], or per class of each sample, [B, C], as one for each class; others as they are."""
        if value.dim() == 2 and len(value) == size and value.shape[1] <= MAX_CLASSES:
            labels = self._stateful.labels(value.shape[1])
            return {f"{name}_{label}": column for label, column in zip(labels, value.T, strict=True)}
        if value.dim() == 1 and size is not None and len(value) > 1:  # per class, unless the first had one per sample
            classes = self._classes.setdefault(name, 0 if len(value) == size else len(value))
            if classes == len(value) <= MAX_CLASSES:
                labels = self._stateful.labels(classes)
                return {f"{name}_{label}": element for label, element in zip(labels, value, strict=True)}
        return {name: value}

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Within this, objects see each batch."""
        self._stateful.reset()
        with self._set(True):
            yield

    def paused(self) -> contextlib.AbstractContextManager[None]:
        """Within this, objects see no batch."""
        return self._set(False)

    @contextlib.contextmanager
    def _set(self, evaluating: bool) -> Iterator[None]:
        before, self._evaluating = self._evaluating, evaluating
        try:
            yield
        finally:
            self._evaluating = before

    def compute(self) -> dict[str, float]:
        """The values of the objects."""
        return self._stateful.compute()

    def short(self, values: Mapping[str, float]) -> Mapping[str, float]:
        """For the console: without the elements of long vectors and matrices."""
        return self._stateful.short(values) if self._stateful.long else values

    def state_dict(self) -> dict[str, Any]:
        return {name: m.state_dict() for name, m in self.objects.items() if hasattr(m, "state_dict")}

    def load_state_dict(self, state: Mapping[str, Any] | Sequence[Any]) -> None:
        """state: by name; in checkpoints of format 1, a list with None for each function."""
        if not isinstance(state, Mapping):
            state = dict(zip(self.objects, [s for s in state if s is not None], strict=False))
        for name, metric in self.objects.items():
            if name in state and hasattr(metric, "load_state_dict"):
                metric.load_state_dict(state[name])
