"""SWA: evaluates with the average of the weights from the end of training (stochastic weight averaging)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch.optim.swa_utils import get_swa_multi_avg_fn

from trainer.engine.base_trainer import BaseTrainer
from trainer.engine.evaluation.averaged_weights import AveragedWeights, check_batch_norm
from utils.errors import UsageError
from utils.tensors import unwrap


class SWA(AveragedWeights):
    """Validates and tests with the plain mean of weights (Izmailov et al., 2018, arXiv:1803.05407).

    start: the step from which weights are averaged; as a float below 1, a fraction of all steps. every: steps between
    two weights of the mean; null: an epoch. bn_steps: steps' worth of training data that batch norm's statistics are
    computed anew from, without which the mean of weights is useless; null: an epoch.
    """

    def __init__(self, start: int | float = 0.75, every: int | None = None, bn_steps: int | None = None) -> None:
        super().__init__()
        if start < 0 or (isinstance(start, float) and start >= 1) or (every is not None and every < 1):
            raise UsageError(
                f"callbacks: SWA has start {start} and every {every}; give a step or a fraction below 1 as start, and "
                f"1 or more as every"
            )
        self.start, self.every, self.bn_steps = start, every, bn_steps
        self.averaged = 0  # weights in the mean

    def before_training(self, trainer: BaseTrainer) -> None:
        check_batch_norm(trainer, "SWA")

    @torch.no_grad()
    def after_step(self, trainer: BaseTrainer) -> None:
        first = int(self.start * trainer.max_steps) if isinstance(self.start, float) else self.start
        if trainer.step < first or trainer.step % (self.every or trainer.steps_per_epoch):
            return
        averages, weights = self.averaged_with(dict(unwrap(trainer.model).named_parameters(remove_duplicate=False)))
        get_swa_multi_avg_fn()(averages, weights, torch.tensor(self.averaged, device=trainer.device))
        self.averaged += 1
        self.update_batch_norm(trainer, self.bn_steps, at=(trainer.step - 1, 3))

    def state_dict(self) -> dict[str, Any]:
        return {"averaged": self.averaged, "average": self.average}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.averaged, self.average = state["averaged"], dict(state["average"])
