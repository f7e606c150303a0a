"""Histograms: weights, gradients and the size of updates, every N steps."""

from typing import Any

import torch
from torch import Tensor

from utils.errors import UsageError
from utils.tensors import unwrap


class Histograms:
    """Of each parameter every `every` steps: histograms of weights and gradients, and update_ratio, the norm of the
    last update over that of the weights (about 1e-3 is usual; far more or less: change the learning rate).

    Only these steps wait for the device. It keeps a copy of the weights for one step.
    """

    def __init__(self, every: int = 200, gradients: bool = True) -> None:
        if every < 1:
            raise UsageError(f"callbacks: Histograms has every {every}; give 1 or more, the steps between two of them")
        self.every, self.gradients = every, gradients
        self._before: dict[str, Tensor] = {}

    def before_training(self, trainer: Any) -> None:
        self._keep(trainer)

    def after_step(self, trainer: Any) -> None:
        if trainer.step % self.every == 0:
            self._show(trainer)
        self._keep(trainer)

    def _keep(self, trainer: Any) -> None:
        """Copy the weights before the step whose update is to be shown."""
        due = (trainer.step + 1) % self.every == 0
        self._before = {name: whole(p).clone() for name, p in _parameters(trainer).items()} if due else {}

    def _show(self, trainer: Any) -> None:
        ratios = {}
        for name, parameter in _parameters(trainer).items():
            weights = whole(parameter)
            if name in self._before:
                ratios[name] = torch.linalg.vector_norm(weights - self._before[name]) / torch.linalg.vector_norm(
                    weights
                )
            gradient = None if parameter.grad is None or not self.gradients else whole(parameter.grad)
            trainer.reporter.histogram(f"weights/{name}", weights, trainer.step)
            if gradient is not None:
                trainer.reporter.histogram(f"gradients/{name}", gradient, trainer.step)
        if ratios:
            values = torch.stack(list(ratios.values())).tolist()
            found = {f"update_ratio/{name}": value for name, value in zip(ratios, values, strict=True)}
            trainer.reporter.details(trainer.step, "train", found)


def _parameters(trainer: Any) -> dict[str, torch.nn.Parameter]:
    named = unwrap(trainer.model).named_parameters()
    return {name.replace("_orig_mod.", ""): p for name, p in named if p.requires_grad}


def whole(tensor: Tensor) -> Tensor:
    """All of a sharded tensor, for which all ranks must call it."""
    tensor = tensor.detach()
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
