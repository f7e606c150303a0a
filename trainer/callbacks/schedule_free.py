"""ScheduleFree: evaluates an optimizer of schedulefree with the weights that it keeps for that."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from trainer.engine.base_trainer import BaseTrainer
from trainer.engine.evaluation.averaged_weights import AveragedWeights, check_batch_norm
from utils.errors import UsageError
from utils.tensors import unwrap


class ScheduleFree(AveragedWeights):
    """Validates, tests and saves the average that a schedule-free optimizer keeps (Defazio et al., 2024,
    arXiv:2405.15682).

    Its optimizer.eval() and train() would round the weights each time. Here, training goes on with a copy from before,
    so that it depends on neither validations nor saves, and a resume is exact. bn_steps: steps' worth of training data
    that batch norm's statistics are recomputed from, each time; null: an epoch.
    """

    def __init__(self, bn_steps: int | None = None) -> None:
        super().__init__()
        if bn_steps is not None and bn_steps < 0:
            raise UsageError(f"callbacks: ScheduleFree: bn_steps is {bn_steps}; give 1 or more, or null: an epoch")
        self.bn_steps = bn_steps
        self._trainer: BaseTrainer | None = None  # while it trains
        self._step = -1  # that the average is of

    def before_training(self, trainer: BaseTrainer) -> None:
        super().before_training(trainer)
        check_batch_norm(trainer, "ScheduleFree")
        optimizers: list[Any] = [o for o in trainer.optimizers() if hasattr(o, "train") and hasattr(o, "eval")]
        if not optimizers:
            kinds = ", ".join(type(optimizer).__name__ for optimizer in trainer.optimizers())
            raise UsageError(
                f"callbacks: ScheduleFree is for the optimizers of schedulefree, and this run has {kinds}; give "
                f"optimizer: AdamWScheduleFree or SGDScheduleFree, or leave out the callback"
            )
        for optimizer in optimizers:
            optimizer.train()
        self._trainer, self._optimizers, self._step = trainer, optimizers, -1

    @contextmanager
    def during_eval(self, trainer: BaseTrainer) -> Iterator[None]:
        self._compute()
        with self.swapped(trainer):
            yield

    def evaluated_weights(self) -> Mapping[str, Tensor]:
        self._compute()
        return self.average

    def state_dict(self) -> dict[str, Any]:
        self._compute()
        return {"average": self.average}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.average = dict(state["average"])  # for test.py, which has no optimizer

    def _compute(self) -> None:
        """The average after the step that was last. All ranks must call it, where there is batch norm."""
        trainer = self._trainer
        if trainer is None or self._step == trainer.step:
            return
        # A signal leaves no time for batch norm's statistics: a resume recomputes them
        self._step = -1 if trainer.interrupted else trainer.step
        with torch.inference_mode(False), torch.no_grad():
            self.average = self._averaged(trainer)
            evaluating = not trainer.model.training
            trainer.train_mode()  # batch norm counts in it
            if not trainer.interrupted:
                self.update_batch_norm(trainer, self.bn_steps, at=(trainer.step, -2))
            if evaluating:
                trainer.model.eval()

    def _averaged(self, trainer: BaseTrainer) -> dict[str, Tensor]:
        """The optimizers' averages of the weights, which they put in place of the weights; these are put back."""
        groups = [group for optimizer in self._optimizers for group in optimizer.param_groups]
        held = [p for group in groups for p in group["params"]]
        kept = [p.detach().clone() for p in held]
        for optimizer in self._optimizers:
            optimizer.eval()
        named = unwrap(trainer.model).named_parameters(remove_duplicate=False)
        average = {name: p.detach().clone() for name, p in named}
        for p, before in zip(held, kept, strict=True):
            p.copy_(before)
        for group in groups:
            group["train_mode"] = True
        return average
