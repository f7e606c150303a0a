"""Checks losses, gradients and weights: nothing that is not finite is trained on or saved."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from utils.process import group
from utils.tensors import local


class NonFinite(Exception):
    """A loss, a gradient or a weight is NaN or infinite. `step`: completed steps before the one it happened in."""

    def __init__(self, step: int, what: str, value: float | str) -> None:
        super().__init__(f"the {what} is {value}")
        self.step, self.what, self.value = step, what, value


class FiniteCheck:
    """Raises NonFinite: at once on one CPU, where looking is free; otherwise at the next `now`, on all ranks."""

    def __init__(self, device: torch.device) -> None:
        self.at_once = device.type == "cpu" and group.world_size() == 1
        self._unseen: list[tuple[int, str, Tensor]] = []

    def check(self, step: int, what: str, value: Tensor) -> None:
        """Check a loss or a norm of step `step`, now or later."""
        if not self.at_once:
            self._unseen.append((step, what, value.detach()))
        elif not math.isfinite(number := value.item()):
            raise NonFinite(step, what, number)

    def now(self) -> None:
        """Check everything that was deferred. Waits for the device and the other ranks: all must call this."""
        found = []
        if self._unseen:
            values = torch.stack([value.float() for _, _, value in self._unseen]).tolist()
            seen = zip(self._unseen, values, strict=True)
            found = [(step, what, value) for (step, what, _), value in seen if not math.isfinite(value)]
            self._unseen.clear()
        _raise_first(found)

    def check_state(self, step: int, model: nn.Module, optimizers: Sequence[Any]) -> None:
        """Check each weight and each optimizer state. Not buffers: one may be a mask of -inf."""
        names = {p: name for name, p in model.named_parameters()}
        values = {f"weight {name}": p.detach() for p, name in names.items()}
        for optimizer in optimizers:
            for p, kept in optimizer.state.items():
                values |= {f"optimizer's {key} of {names.get(p, 'a weight')}": value for key, value in kept.items()}
        tensors = {k: v for k, v in values.items() if isinstance(v, Tensor) and v.is_floating_point() and v.numel()}
        tensors = {k: local(v) for k, v in tensors.items()}
        found = []
        for device in {v.device for v in tensors.values()}:
            here = {k: v for k, v in tensors.items() if v.device == device}
            norms = torch.stack([n.float() for n in torch._foreach_norm(list(here.values()))]).tolist()
            for (what, value), norm in zip(here.items(), norms, strict=True):
                # A norm may overflow although no value did; checking each value takes thirty times as long
                if not math.isfinite(norm) and not value.isfinite().all():
                    found.append((step, what, "not finite"))
        _raise_first(found)


def _raise_first(found: Sequence[tuple[int, str, float | str]]) -> None:
    """Raise NonFinite for what any rank found, on all ranks."""
    first = min([f for of_rank in group.gather(found[:1]) for f in of_rank], default=None, key=lambda f: f[0])
    if first is not None:
        raise NonFinite(*first)
