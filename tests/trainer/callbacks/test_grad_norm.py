"""GradNorm: the norm of the mean gradient of a step, before clipping, whatever the accumulation."""

from typing import Any

import pytest
import torch
from torch import nn

import trainer.callbacks
from tests.tiny import Tiny, tiny
from trainer.callbacks.grad_norm import GradNorm

__all__ = ["tiny"]


class ByHand:
    """The norm from the gradients, which stay readable after an update where nothing clips them."""

    def __init__(self) -> None:
        self._seen: list[float] = []

    def after_step(self, trainer: Any) -> None:
        gradients = [p.grad for p in trainer.model.parameters()]
        self._seen.append(float(nn.utils.get_total_norm(gradients)))


def test_it_is_the_mean_of_the_norms_between_two_log_points(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer.callbacks, "ByHand", ByHand, raising=False)
    done = tiny.train("callbacks=[ByHand, GradNorm]")
    norms = done.callbacks[0]._seen
    means = [sum(norms[a:b]) / (b - a) for a, b in ((0, 4), (4, 6), (6, 8), (8, 12))]
    assert tiny.steps("train") == [4, 6, 8, 12]
    assert [point["grad_norm"] for point in tiny.points("train")] == pytest.approx(means, rel=1e-5)
    plain = tiny.train(run="plain")
    assert "grad_norm" not in tiny.points("train", "plain")[0]
    assert all(torch.equal(a, b) for a, b in zip(done.model.parameters(), plain.model.parameters(), strict=True))

    tiny.train("callbacks=[GradNorm]", "trainer.accumulate=4", run="accumulated")
    accumulated = [point["grad_norm"] for point in tiny.points("train", "accumulated")]
    assert accumulated == pytest.approx(means, rel=1e-5)
    tiny.train("callbacks=[GradNorm]", "trainer.clip_grad_norm=0.5", "trainer.log_steps=1", run="clipped")
    assert tiny.points("train", "clipped")[0]["grad_norm"] == pytest.approx(norms[0], rel=1e-5)
    assert norms[0] > 0.5


def test_a_step_that_fp16_skips_does_not_count(tiny: Tiny) -> None:
    built = tiny.build("callbacks=[]")
    for norm in (torch.tensor(2.0), torch.tensor(torch.inf), torch.tensor(4.0)):
        built.grad_norms[id(built.optimizer)] = norm
        GradNorm().after_step(built)
    assert built.window.means() == {"grad_norm": 3.0}


def test_of_several_optimizers_and_over_a_resume(tiny: Tiny) -> None:
    keys = [
        "arch=ConvNet",
        "optimizer={features: SGD, classifier: {type: SGD, args: {lr: 0.1}}}",
        "callbacks=[GradNorm]",
        "trainer.save_steps=3",
    ]
    tiny.train(*keys, run="whole")
    tiny.train(*keys, "trainer.max_steps=5")
    tiny.train(*keys)
    points = tiny.points("train", "whole")
    assert all({"grad_norm_features", "grad_norm_classifier"} < point.keys() for point in points)
    assert tiny.points("train")[-2:] == points[-2:]
