"""Optimizers of a config: classes, functions, one or several."""

import pytest
import torch

from tests.tiny import tiny
from trainer import optim
from utils.errors import UsageError

__all__ = ["tiny"]


def one_of_mine(params, lr: float = 0.1):
    return torch.optim.SGD(params, lr)


def test_an_optimizer_may_be_a_function(tiny, monkeypatch):
    monkeypatch.setattr(optim, "one_of_mine", one_of_mine, raising=False)
    trainer = tiny.train("optimizer={type: one_of_mine, args: {lr: 0.2}}")
    assert trainer.step == 12
    assert trainer.optimizer.defaults["lr"] == 0.2


class WithoutRate(torch.optim.Optimizer):
    def __init__(self, params):
        super().__init__(params, {})

    @torch.no_grad()
    def step(self, closure=None):
        for p in (p for group in self.param_groups for p in group["params"]):
            p -= 0.1 * p.grad


def test_an_optimizer_without_learning_rate(tiny, monkeypatch):
    monkeypatch.setattr(optim, "WithoutRate", WithoutRate, raising=False)
    tiny.train("optimizer={type: WithoutRate, groups: [{match: '*.bias'}]}")
    assert "WithoutRate bias: 26 parameters\n" in tiny.log()
    assert not any(name.startswith("lr") for name in tiny.points("train")[-1])
    with pytest.raises(UsageError, match=r"optimizer\.layer_decay: WithoutRate has no lr; remove layer_decay"):
        tiny.build("optimizer={type: WithoutRate, layer_decay: 0.5}")
