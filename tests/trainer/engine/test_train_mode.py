"""Train mode for all but the frozen parts that a model's constructor has put into eval mode."""

from typing import Any

import pytest
import torch
from torch import nn

import model.model
from tests.tiny import Tiny, tiny

__all__ = ["tiny"]
SHAPES = ["data_loader.args.batch_size=28", "trainer.epochs=2"]


class Frozen(nn.Module):
    """A backbone that is frozen, with a batch norm, and a head with another."""

    def __init__(self, frozen: bool = True, in_eval_mode: bool = True) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16))
        self.backbone.requires_grad_(not frozen)
        self.backbone.train(not in_eval_mode)
        self.head = nn.Sequential(nn.BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 10))
        self.modes: list[tuple[bool, bool]] = []

    def forward(self, x: Any) -> Any:
        self.modes.append((self.backbone.training, self.head.training))
        return self.head(self.backbone(x))


@pytest.fixture(autouse=True)
def _name_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.model, "Frozen", Frozen, raising=False)


def statistics(norm: Any) -> tuple[int, bool]:
    """Batches that it has counted; has its mean moved?"""
    return int(norm.num_batches_tracked), bool(norm.running_mean.abs().sum() > 0)


def test_a_frozen_part_in_eval_mode_stays_there(tiny: Tiny) -> None:
    done = tiny.train("arch=Frozen")
    net = done.model
    assert statistics(net.backbone[2]) == (0, False)
    assert statistics(net.head[0]) == (12, True)
    training = [mode for mode in net.modes if mode != (False, False)]
    assert training == [(False, True)] * 12  # also after the validation of the first epoch
    assert len(net.modes) == 12 + 2 * 4


@pytest.mark.parametrize("args", [{"frozen": False, "in_eval_mode": True}, {"frozen": True, "in_eval_mode": False}])
def test_other_parts_train_in_train_mode(tiny: Tiny, args: dict[str, bool]) -> None:
    """What is not frozen, and what is frozen but was left in train mode."""
    done = tiny.train("arch=Frozen", *(f"arch.args.{key}={str(value).lower()}" for key, value in args.items()))
    assert statistics(done.model.backbone[2]) == (12, True)


def test_a_part_that_is_unfrozen_later_goes_into_train_mode(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    import trainer.callbacks

    class Unfreeze:
        def after_epoch(self, trainer: Any, values: Any) -> None:
            trainer.model.backbone.requires_grad_(True)
            trainer.train_mode()

    monkeypatch.setattr(trainer.callbacks, "Unfreeze", Unfreeze, raising=False)
    done = tiny.train("arch=Frozen", "callbacks=[Unfreeze]")
    assert statistics(done.model.backbone[2]) == (6, True)


def test_a_model_that_arrives_in_eval_mode_trains_in_train_mode(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of Hugging Face do."""

    class Arrives(Frozen):
        def __init__(self) -> None:
            super().__init__()
            self.eval()

    monkeypatch.setattr(model.model, "Arrives", Arrives, raising=False)
    done = tiny.train("arch=Arrives")
    assert statistics(done.model.head[0]) == statistics(done.model.backbone[2]) == (12, True)
    assert torch.isfinite(done.model.head[2].weight).all()
