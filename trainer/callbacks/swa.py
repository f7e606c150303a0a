"""SWA: evaluates with the average of the weights from the end of training (stochastic weight averaging)."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch.optim.swa_utils import get_swa_multi_avg_fn

from logger.console import log
from trainer.engine.base_trainer import BaseTrainer
from trainer.engine.due import is_whole
from trainer.engine.evaluation.averaged_weights import AveragedWeights, check_batch_norm
from utils.errors import UsageError
from utils.tensors import unwrap


class SWA(AveragedWeights):
    """Validates and tests with the plain mean of weights (Izmailov et al., 2018, arXiv:1803.05407).

    start: the step from which weights are averaged; as a float below 1, a fraction of all steps. every: steps between
    two weights of the mean; null: an epoch. bn_steps: steps' worth of training data that batch norm's statistics are
    recomputed from, without which the mean of weights is useless; null: an epoch.
    """

    def __init__(self, start: int | float = 0.75, every: int | None = None, bn_steps: int | None = None) -> None:
        super().__init__()
        if not 0 <= start < (1 if isinstance(start, float) else math.inf):
            raise UsageError(f"callbacks: SWA: start is {start}; give a step, or a fraction from 0 to below 1")
        for name, steps, least in (("every", every, 1), ("bn_steps", bn_steps, 0)):
            if steps is not None and steps < least:
                raise UsageError(f"callbacks: SWA: {name} is {steps}; give 1 or more, or null: an epoch")
        self.start, self.every, self.bn_steps = start, every, bn_steps
        self.averaged = 0  # weights in the mean

    def before_training(self, trainer: BaseTrainer) -> None:
        super().before_training(trainer)
        check_batch_norm(trainer, "SWA")
        every = self.every or trainer.steps_per_epoch
        last = trainer.max_steps // every * every  # that could be averaged
        if is_whole(trainer) and last < max(1, self._first(trainer)):
            log.warning(
                f"SWA: it averages nothing: the run has {trainer.max_steps} steps, and it takes one in {every} from "
                f"step {self._first(trainer)} on; set start or every lower"
            )

    def _first(self, trainer: BaseTrainer) -> int:
        return int(self.start * trainer.max_steps) if isinstance(self.start, float) else self.start

    @torch.no_grad()
    def after_step(self, trainer: BaseTrainer) -> None:
        if trainer.step < self._first(trainer) or trainer.step % (self.every or trainer.steps_per_epoch):
            return
        averages, weights = self.averaged_with(dict(unwrap(trainer.model).named_parameters(remove_duplicate=False)))
        get_swa_multi_avg_fn()(averages, weights, torch.tensor(self.averaged, device=trainer.device))
        self.averaged += 1
        self.update_batch_norm(trainer, self.bn_steps, at=(trainer.step - 1, 3))

    def state_dict(self) -> dict[str, Any]:
        return {"averaged": self.averaged, "average": self.average}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.averaged, self.average = state["averaged"], dict(state["average"])
