"""Trainers and parts as a user would write them, for tests of the training step on one rank and on several."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from data_loader import BaseDataLoader
from trainer.trainer import Trainer

RHO = 0.05


class SAMTrainer(Trainer):
    """Sharpness-aware minimization: the gradient at the worst point nearby (Foret et al., 2021)."""

    def train_step(self, batches: Sequence[Any]) -> None:
        for inputs, targets in self.micro_batches(batches):
            outputs = self.model(inputs)
            loss = self.criterion(outputs, targets)
            self.backward(loss, self.weight(targets))
            self.record(loss=loss, **self.metrics(outputs, targets), weight=self.weight(targets))
        self.average(self.optimizer)  # the global gradient says where the worst point is
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        with torch.no_grad():
            norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            moves = [p.grad * (RHO / norm) for p in parameters if p.grad is not None]
            torch._foreach_add_(parameters, moves)
        for inputs, targets in self.micro_batches(batches):
            self.backward(self.criterion(self.model(inputs), targets), self.weight(targets))
        with torch.no_grad():
            torch._foreach_sub_(parameters, moves)
        self.update(self.optimizer)


class PenaltyTrainer(Trainer):
    """A gradient penalty like that of WGAN-GP (Gulrajani et al., 2017)."""

    def train_step(self, batches: Sequence[Any]) -> None:
        for inputs, targets in self.micro_batches(batches):
            loss, penalty = losses_with_penalty(self.model, self.criterion, inputs, targets)
            self.backward(loss + penalty, self.weight(targets))
            self.record(loss=loss, penalty=penalty)
        self.update(self.optimizer)


class SeveralLossesTrainer(Trainer):
    """The same, with a backward pass for each of the two losses."""

    def train_step(self, batches: Sequence[Any]) -> None:
        for inputs, targets in self.micro_batches(batches):
            loss, penalty = losses_with_penalty(self.model, self.criterion, inputs, targets)
            weight = self.weight(targets)
            self.backward(loss, weight, retain_graph=True)
            self.backward(penalty, weight)
            self.record(loss=loss, penalty=penalty)
        self.update(self.optimizer)


def losses_with_penalty(model: Any, criterion: Any, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    inputs = inputs.clone().requires_grad_()
    outputs = model(inputs)
    (slopes,) = torch.autograd.grad(outputs.sum(), inputs, create_graph=True)
    return criterion(outputs, targets), 0.1 * (slopes.flatten(1).norm(dim=1) - 1).square().mean()


class DrawingTrainer(Trainer):
    """Draws once a step, outside of micro-batches, with all three generators."""

    def train_step(self, batches: Sequence[Any]) -> None:
        drawn = float(torch.rand(())) + float(np.random.rand()) + random.random()
        for inputs, targets in self.micro_batches(batches):
            loss = self.criterion(self.model(inputs), targets) * drawn
            self.backward(loss)
            self.record(loss=loss, drawn=drawn)
        self.update(self.optimizer)


# -- sequences of uneven length, whose labels end with -100 -----------------------------------------------------------


class TokensDataLoader(BaseDataLoader):
    """120 sequences [5, 4] with labels [5]; of every eighth no label counts. ignored: are any labels ignored?"""

    def __init__(self, batch_size: int = 16, ignored: bool = True, training: bool = True, **kwargs: Any) -> None:
        numbers = torch.Generator().manual_seed(0)
        x = torch.randn(120, 5, 4, generator=numbers)
        y = torch.randint(3, (120, 5), generator=numbers)
        lengths = torch.randint(1, 6, (120, 1), generator=numbers)
        lengths[::8] = 0
        if ignored:
            y = y.masked_fill(torch.arange(5) >= lengths, -100)
        super().__init__(TensorDataset(x, y), batch_size, **kwargs)


class Tagger(nn.Module):
    """Sequences [B, T, 4] -> logits [B, 3, T]."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).transpose(1, 2)


class ClassWeighted(nn.CrossEntropyLoss):
    """Cross-entropy whose classes count 1, 3 and 0.5."""

    def __init__(self) -> None:
        super().__init__(weight=torch.tensor([1.0, 3.0, 0.5]))


def name_parts() -> None:
    """Put them where a config finds them."""
    from data_loader import data_loaders
    from model import loss
    from model import model as models
    from trainer import trainer as trainers

    for room, parts in (
        (trainers, (SAMTrainer, PenaltyTrainer, SeveralLossesTrainer, DrawingTrainer)),
        (data_loaders, (TokensDataLoader,)),
        (models, (Tagger,)),
        (loss, (ClassWeighted,)),
    ):
        vars(room).update({part.__name__: part for part in parts})
