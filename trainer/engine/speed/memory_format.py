"""channels_last by default, and back to contiguous for a model that it breaks."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from logger.console import log

T = TypeVar("T")


class MemoryFormat:
    """Runs the first step in the memory format that setup.py chose, and again if a `view` in the model cannot use it.

    Only where `trainer.channels_last` is null. A resumed run finds the same again, so that it stays exact.
    """

    def __init__(self, model: nn.Module, automatic: bool) -> None:
        chosen = any(p.dim() == 4 and not p.is_contiguous() for p in model.parameters())
        self.model, self._may_go_back = model, automatic and chosen
        self.in_trial = self._may_go_back  # no training step has worked yet

    def first_step(
        self, compute: Callable[[], None], optimizers: Sequence[Optimizer], updated: Callable[[], bool]
    ) -> None:
        """A training step while `in_trial`. updated: may it have changed weights already?"""
        self._tried(compute, optimizers, updated)
        self.in_trial = False

    def evaluate(self, compute: Callable[[], T], optimizers: Sequence[Optimizer]) -> T:
        """The result of an evaluation of one batch."""
        return self._tried(compute, optimizers, lambda: False) if self._may_go_back else compute()

    def _tried(self, compute: Callable[[], T], optimizers: Sequence[Optimizer], updated: Callable[[], bool]) -> T:
        buffers = [(b, b.clone()) for b in self.model.buffers()]
        try:
            return compute()
        except RuntimeError as e:
            if "view size is not compatible" not in str(e) or updated():
                raise
        self._may_go_back = self.in_trial = False
        log.info(
            "channels_last is off: the model calls view() on a convolution's output (flatten() works in both formats)"
        )
        with torch.inference_mode(False), torch.no_grad():
            self.model.to(memory_format=torch.contiguous_format)
            for buffer, before in buffers:  # batch norm's statistics may have moved before the view
                buffer.copy_(before)
            for optimizer in optimizers:
                match_layout(optimizer)
        return compute()


def match_layout(optimizer: Optimizer) -> None:
    """Lay out the optimizer's state like the weights: fused kernels go by memory layout, not by shape."""
    for p, kept in optimizer.state.items():
        values: dict[str, Any] = kept
        for key, value in values.items():
            if type(value) is Tensor and value.shape == p.shape and value.stride() != p.stride():
                values[key] = torch.empty_like(p, dtype=value.dtype).copy_(value)
