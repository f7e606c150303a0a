"""The automatic memory format: faster where it is safe."""

import pytest
import torch
from torch import nn

from tests.tiny import Tiny, tiny
from trainer.engine import setup

__all__ = ["tiny"]


def chosen(tiny: Tiny, model: nn.Module) -> bool:
    return setup._channels_last(tiny.build().options, model, torch.device("cpu"))


def test_convolutions_are_channels_last_on_a_cpu(tiny: Tiny) -> None:
    assert chosen(tiny, nn.Conv2d(3, 8, 3, stride=2))
    assert chosen(tiny, nn.Conv2d(64, 8, 1, stride=2))
    assert chosen(tiny, nn.Conv2d(4, 8, 1))
    assert chosen(tiny, nn.Conv2d(8, 8, 1, stride=2))
    assert not chosen(tiny, nn.Linear(3, 8))


@pytest.mark.parametrize("stride", [2, (1, 2)])
def test_not_where_torch_corrupts_memory(tiny: Tiny, stride: int | tuple[int, int]) -> None:
    """The backward pass of these crashes in plain torch, in channels_last."""
    assert not chosen(tiny, nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 8, 1, stride=stride)))


def test_a_narrow_resnet_trains(tiny: Tiny) -> None:
    trainer = tiny.build(
        "arch={type: SmallResNet, args: {in_channels: 1, blocks: [1, 1], width: 4}}", "trainer.max_steps=4"
    )
    trainer.train()
    assert trainer.step == 4
