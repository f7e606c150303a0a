"""EMA: evaluates with an exponential moving average of the weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from trainer.engine.base_trainer import BaseTrainer
from utils.tensors import local, unwrap


class EMA:
    """Validates and tests with an exponential moving average of the weights (Polyak and Juditsky, 1992).

    decay: fraction of the old average that is kept at each step; less in the first steps, to forget the start.
    """

    def __init__(self, decay: float = 0.999) -> None:
        self.decay = decay
        self.steps = 0
        self.average: dict[str, torch.Tensor] = {}
        self._left_out: set[str] | None = None  # buffers that are not averaged

    @torch.no_grad()
    def after_step(self, trainer: BaseTrainer) -> None:
        weights = self._weights(trainer)
        self.steps += 1
        if not self.average:
            self.average = {name: weight.clone() for name, weight in weights.items()}
        for name, weight in weights.items():  # an observer's buffer may get another shape when it sees its first data
            if name not in self.average or self.average[name].shape != weight.shape:
                self.average[name] = weight.clone()
        decay = min(self.decay, self.steps / (self.steps + 10))
        averages = [self.average[name] for name in weights]
        if averages and averages[0].device != trainer.device:
            self.average = {name: average.to(trainer.device) for name, average in self.average.items()}
            averages = [self.average[name] for name in weights]
        torch._foreach_lerp_([local(t) for t in averages], [local(t) for t in weights.values()], 1 - decay)

    @contextmanager
    def during_eval(self, trainer: BaseTrainer) -> Iterator[None]:
        if not self.average:
            yield
            return
        weights = self._weights(trainer)
        kept = {name: weight.clone() for name, weight in weights.items()}
        for name, weight in weights.items():
            weight.copy_(self.average.get(name, weight))
        try:
            yield
        finally:
            for name, weight in weights.items():
                weight.copy_(kept[name])

    def evaluated_weights(self) -> Mapping[str, torch.Tensor]:
        """What a checkpoint has as `model`: what was validated."""
        return self.average

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "average": self.average}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps, self.average = state["steps"], dict(state["average"])

    def _weights(self, trainer: BaseTrainer) -> dict[str, torch.Tensor]:
        """Parameters and floating-point buffers (batch norm's statistics); not those with infinities, such as masks."""
        model = unwrap(trainer.model)
        state = {name: t for name, t in model.state_dict().items() if isinstance(t, torch.Tensor)}
        if self._left_out is None:
            parameters = dict(model.named_parameters(remove_duplicate=False))
            self._left_out = {name for name, t in state.items() if not _can_be_averaged(t, name in parameters)}
        return {name: t for name, t in state.items() if name not in self._left_out}


def _can_be_averaged(tensor: torch.Tensor, is_parameter: bool) -> bool:
    return (tensor.is_floating_point() or tensor.is_complex()) and (is_parameter or bool(tensor.isfinite().all()))
