"""Models for the tests of several ranks, on 8 x 8 digits. `trained` puts them where a config finds them."""

import random
from typing import Any

import torch
from torch import Tensor, nn


class TinyGAN(nn.Module):
    """Without noise, so that any number of ranks makes the same images."""

    latent = 4

    def __init__(self):
        super().__init__()
        self.generator = nn.Sequential(_Ones(), nn.Linear(self.latent, 64))
        self.discriminator = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 1), nn.Flatten(0))


class _Ones(nn.Module):
    def forward(self, noise: Tensor) -> Tensor:
        return torch.ones_like(noise)


class Unused(nn.Module):
    """The layer `never` takes part in no step, `sometimes` in those on batches of an even sum of labels' pixels."""

    def __init__(self, sometimes: bool = False):
        super().__init__()
        self.used, self.never, self.sometimes = nn.Linear(64, 10), nn.Linear(64, 10), nn.Linear(64, 10)
        self.varies = sometimes
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        self.calls += self.training
        if self.varies:
            x_never = self.never(x) if self.calls < 3 else 0
            return self.used(x) + self.sometimes(x) + x_never
        return self.used(x)


class Tied(nn.Module):
    """Two layers with one weight, and buffers: one that each rank would count otherwise, one that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)
        self.second.weight = self.first.weight
        self.seen: Tensor
        self.register_buffer("seen", torch.zeros(1))
        self.register_buffer("scratch", torch.zeros(3), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen += x.mean()
        return self.head(self.second(self.first(x.flatten(1)).tanh()).tanh())


class Unseeded(nn.Linear):
    """Starts from numbers of the operating system."""

    def __init__(self) -> None:
        super().__init__(64, 10)
        nn.init.uniform_(self.weight, generator=torch.Generator().manual_seed(random.SystemRandom().getrandbits(32)))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(1))


class Bag(nn.Module):
    """An embedding with sparse gradients, and dense weights."""

    def __init__(self, sparse: bool = True) -> None:
        super().__init__()
        self.table = nn.EmbeddingBag(17, 8, sparse=sparse, mode="mean")
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.table(x.flatten(1).mul(2.6).add(2.2).round().clamp(0, 16).long()))


class Center(nn.Module):
    """A loss with parameters of its own: the centers of the classes."""

    def __init__(self) -> None:
        super().__init__()
        self.centers = nn.Parameter(torch.zeros(10, 10))

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(output, target) + (output - self.centers[target]).square().mean()


class Unfreezing(nn.Module):
    """A layer that a callback unfreezes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(64, 16).requires_grad_(False), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.first(x.flatten(1)).tanh())


class Unfreeze:
    def after_step(self, trainer: Any) -> None:
        if trainer.step == 3:
            for p in trainer.model.parameters():
                p.requires_grad_(True)


ALL = (TinyGAN, Unused, Tied, Unseeded, Bag, Unfreezing)
