"""EMA: evaluates with an exponential moving average of the weights."""

from collections.abc import Mapping
from typing import Any

import torch

from trainer.engine.base_trainer import BaseTrainer
from trainer.engine.evaluation.averaged_weights import AveragedWeights
from utils.errors import UsageError


class EMA(AveragedWeights):
    """Validates and tests with an exponential moving average of the weights (Polyak and Juditsky, 1992).

    decay: fraction of the old average that is kept at each step. warmup: keep less in the first steps, to forget the
    start; without it, it is the average of torch.optim.swa_utils.
    """

    def __init__(self, decay: float = 0.999, warmup: bool = True) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise UsageError(f"callbacks: EMA: decay is {decay}; give a number from 0 to below 1, such as 0.999")
        self.decay, self.warmup = decay, warmup
        self.steps = 0

    @torch.no_grad()
    def after_step(self, trainer: BaseTrainer) -> None:
        self.steps += 1
        decay = min(self.decay, self.steps / (self.steps + 10)) if self.warmup else self.decay
        averages, weights = self.averaged_with(self.weights(trainer))
        torch._foreach_lerp_(averages, weights, 1 - decay)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "average": self.average}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps, self.average = state["steps"], dict(state["average"])
