"""Optimizers of a config: classes, functions, one or several."""

import torch

from tests.tiny import tiny
from trainer import optim

__all__ = ["tiny"]


def one_of_mine(params, lr: float = 0.1):
    return torch.optim.SGD(params, lr)


def test_an_optimizer_may_be_a_function(tiny, monkeypatch):
    monkeypatch.setattr(optim, "one_of_mine", one_of_mine, raising=False)
    trainer = tiny.train("optimizer={type: one_of_mine, args: {lr: 0.2}}")
    assert trainer.step == 12
    assert trainer.optimizer.defaults["lr"] == 0.2
