"""What callbacks share that evaluate with averaged weights: EMA and SWA."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from utils.tensors import local, unwrap

if TYPE_CHECKING:
    from trainer.engine.base_trainer import BaseTrainer


class AveragedWeights:
    """Validates and tests with `average`, and saves it as the checkpoint's `model`; training goes on with the weights.

    Until there is an average, the weights themselves are evaluated.
    """

    def __init__(self) -> None:
        self.average: dict[str, Tensor] = {}
        self._left_out: set[str] | None = None  # buffers that are not averaged

    @contextmanager
    def during_eval(self, trainer: "BaseTrainer") -> Iterator[None]:
        with self.swapped(trainer):
            yield

    def evaluated_weights(self) -> Mapping[str, Tensor]:
        """What a checkpoint has as `model`: what was validated."""
        return self.average

    @contextmanager
    def swapped(self, trainer: "BaseTrainer") -> Iterator[None]:
        """Within this, the model has the averaged weights."""
        model = _tensors(trainer)
        replaced = {name: model[name] for name in self.average if name in model}
        kept = {name: weight.clone() for name, weight in replaced.items()}
        with torch.no_grad():
            for name, weight in replaced.items():
                weight.copy_(self.average[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, weight in replaced.items():
                    weight.copy_(kept[name])

    def weights(self, trainer: "BaseTrainer") -> dict[str, Tensor]:
        """Parameters and floating-point buffers (batch norm's statistics); not those with infinities, such as masks."""
        state = _tensors(trainer)
        if self._left_out is None:
            parameters = dict(unwrap(trainer.model).named_parameters(remove_duplicate=False))
            self._left_out = {name for name, t in state.items() if not _can_be_averaged(t, name in parameters)}
        return {name: t for name, t in state.items() if name not in self._left_out}

    def averaged_with(self, weights: Mapping[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """The average and the weights as lists of tensors on this rank; a new tensor begins as the weight itself."""
        for name, weight in weights.items():  # an observer's buffer may get another shape when it sees its first data
            kept = self.average.get(name)
            if kept is None or kept.shape != weight.shape:
                self.average[name] = weight.clone()
            elif kept.device != weight.device:  # of a checkpoint
                self.average[name] = kept.to(weight.device)
        return [local(self.average[name]) for name in weights], [local(weight) for weight in weights.values()]


def _tensors(trainer: "BaseTrainer") -> dict[str, Tensor]:
    state: dict[str, Any] = unwrap(trainer.model).state_dict()
    return {name: t for name, t in state.items() if isinstance(t, Tensor)}


def _can_be_averaged(tensor: Tensor, is_parameter: bool) -> bool:
    return (tensor.is_floating_point() or tensor.is_complex()) and (is_parameter or bool(tensor.isfinite().all()))
