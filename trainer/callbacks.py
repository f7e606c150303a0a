"""Callbacks: a class with any of `after_step(trainer)`, `during_eval(trainer)`, `after_epoch(trainer, values)`.

A callback reads, logs, keeps a state (`state_dict`, `load_state_dict`) and may call `trainer.stop(reason)`. What
changes gradients is a trainer of its own.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from logger.figures import image_grid
from trainer.state import unwrap
from utils.seed import mix, seed_all
from utils.tensors import local


class EMA:
    """Validates and tests with an exponential moving average of the weights (Polyak and Juditsky, 1992).

    decay: share of the old average that is kept at each step; in the first steps less, so that it forgets the start.
    """

    def __init__(self, decay: float = 0.999) -> None:
        self.decay = decay
        self.steps = 0
        self.average: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def after_step(self, trainer: Any) -> None:
        weights = self._weights(trainer)
        self.steps += 1
        if not self.average:
            self.average = {name: weight.clone() for name, weight in weights.items()}
        decay = min(self.decay, self.steps / (self.steps + 10))
        averages = [self.average[name] for name in weights]
        if averages and averages[0].device != trainer.device:
            self.average = {name: average.to(trainer.device) for name, average in self.average.items()}
            averages = [self.average[name] for name in weights]
        torch._foreach_lerp_([local(t) for t in averages], [local(t) for t in weights.values()], 1 - decay)

    @contextmanager
    def during_eval(self, trainer: Any) -> Iterator[None]:
        if not self.average:
            yield
            return
        weights = self._weights(trainer)
        kept = {name: weight.clone() for name, weight in weights.items()}
        for name, weight in weights.items():
            weight.copy_(self.average[name])
        try:
            yield
        finally:
            for name, weight in weights.items():
                weight.copy_(kept[name])

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "average": self.average}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps, self.average = state["steps"], dict(state["average"])

    @staticmethod
    def _weights(trainer: Any) -> dict[str, torch.Tensor]:
        """Parameters and floating-point buffers (BatchNorm's statistics)."""
        state = unwrap(trainer.model).state_dict()
        return {name: value for name, value in state.items() if value.is_floating_point()}


class GeneratedImages:
    """After each epoch, a picture of what a GAN's generator makes of always the same noise.

    images: how many.
    """

    def __init__(self, images: int = 64) -> None:
        self.images = images

    @torch.inference_mode()
    def after_epoch(self, trainer: Any, values: Mapping[str, float]) -> None:
        trainer.model.eval()
        seed_all(mix(trainer.seed, -2))
        trainer.reporter.picture("train/generated", image_grid(trainer.make(self.images)), trainer.step)
        trainer.model.train()
