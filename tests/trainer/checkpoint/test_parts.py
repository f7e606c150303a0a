"""A resume with other parts than before, and state that a checkpoint would not hold."""

import json

import pytest
import torch
from torch import nn

import model.loss
import model.model
import train
import trainer.callbacks.ema
from tests.tiny import CONFIG, tiny
from trainer import load_model
from utils.errors import UsageError

__all__ = ["tiny"]


class StopAt:
    def __init__(self, step: int):
        self.step = step

    def after_step(self, trainer):
        if trainer.step == self.step:
            trainer.stop(f"step {self.step} is enough")


class Counter:
    def __init__(self):
        self.count = 0

    def after_step(self, trainer):
        self.count += 1

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


@pytest.fixture(autouse=True)
def _name_them(monkeypatch):
    for callback in (StopAt, Counter):
        monkeypatch.setattr(trainer.callbacks.ema, callback.__name__, callback, raising=False)


STOP = "callbacks=[{type: StopAt, args: {step: 4}}]"


def test_a_run_that_a_callback_stopped_stays_finished(tiny):
    assert tiny.train(STOP).step == 4
    assert tiny.train(STOP).step == 4
    assert "nothing to do" not in tiny.log()


@pytest.mark.parametrize("change", ["callbacks=[]", "trainer.epochs=3"])
def test_it_continues_without_the_callback_or_with_more_epochs(tiny, change):
    tiny.train(STOP)
    resumed = tiny.train(STOP, change)
    assert resumed.step == resumed.max_steps > 4


def test_callbacks_are_matched_by_name(tiny, caplog):
    tiny.train("callbacks=[EMA, Counter]", "trainer.epochs=1")
    fewer = tiny.train("callbacks=[Counter]", "trainer.epochs=2")
    assert fewer.callbacks[0].count == 12
    assert "the checkpoint's state of `callbacks.EMA` is not used: the current config has none" in tiny.log()
    more = tiny.train("callbacks=[Counter, EMA, Counter]", "trainer.epochs=3")
    assert [more.callbacks[0].count, more.callbacks[1].steps, more.callbacks[2].count] == [18, 6, 6]
    assert "the checkpoint holds no state of `callbacks.Counter_2`: it starts afresh" in tiny.log()


# -- what a checkpoint holds


class Odd(nn.Module):
    """A submodule named `module` beside a weight, a mask with infinities, integers, extra state, and a version."""

    _version = 2

    module: nn.Module
    mask: torch.Tensor
    seen: torch.Tensor

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(10))
        self.module = nn.Linear(64, 10)
        self.register_buffer("mask", torch.full((10, 10), -torch.inf).triu(1))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self.extra = {"calls": 0}

    def forward(self, x):
        self.seen += self.training
        self.extra["calls"] += self.training
        return self.module(x.flatten(1)) * self.weight + self.mask.exp().sum() * 0

    def get_extra_state(self):
        return dict(self.extra)

    def set_extra_state(self, state):
        self.extra = dict(state)

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *args):
        assert local_metadata["version"] == 2  # None: weights of the first version, as torchvision's MNASNet takes it
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)


@pytest.mark.parametrize("callbacks", ["callbacks=[]", "callbacks=[EMA]"])
def test_odd_models_resume_exactly(tiny, monkeypatch, callbacks):
    monkeypatch.setattr(model.model, "Odd", Odd, raising=False)
    whole = tiny.train("arch=Odd", callbacks, run="whole")
    tiny.train("arch=Odd", callbacks, "trainer.epochs=1")
    resumed = tiny.train("arch=Odd", callbacks)
    one, two = whole.model.state_dict(), resumed.model.state_dict()
    assert one["_extra_state"] == two["_extra_state"] == {"calls": 12}
    assert all(torch.equal(one[key], two[key]) for key in one if key != "_extra_state")
    assert tiny.points("valid")[-1] == tiny.points("valid", "whole")[-1]
    assert all(point["loss"] == point["loss"] for point in tiny.points("valid"))  # not NaN
    second = tiny.build("arch=Odd", f"init_from={tiny.folder / 'whole/checkpoints/checkpoint-step12.pth'}", run="new")
    saved = tiny.load("checkpoint-step12.pth", "whole")["model"]
    assert torch.equal(second.model.module.weight, saved["module.weight"])
    assert torch.equal(second.model.weight, saved["weight"])


def test_with_ema_the_model_in_a_checkpoint_is_what_was_validated(tiny):
    done = tiny.train("callbacks=[EMA]", "trainer.monitor=min val_loss")
    saved = tiny.load("model_best.pth")
    assert torch.equal(saved["raw_model"]["layers.0.weight"], done.model.state_dict()["layers.0.weight"])
    assert not torch.equal(saved["model"]["layers.0.weight"], saved["raw_model"]["layers.0.weight"])
    net, valid = load_model(tiny.folder / "run"), done.valid_data_loader
    inputs, targets = (torch.cat(parts) for parts in zip(*valid, strict=True))
    with torch.no_grad():
        loss = nn.functional.cross_entropy(net(inputs), targets).item()
    assert loss == pytest.approx(tiny.points("valid")[-1]["loss"], rel=1e-6)


class Remembers(nn.Module):
    """Keeps a number for each sample in a plain attribute."""

    def __init__(self):
        super().__init__()
        self.memory = torch.zeros(10)

    def forward(self, output, target):
        self.memory[target] += 1
        return nn.functional.cross_entropy(output, target)


def test_check_finds_state_that_is_in_no_checkpoint(tiny, monkeypatch):
    monkeypatch.setattr(model.loss, "Remembers", Remembers, raising=False)
    (tiny.folder / "c.json").write_text(json.dumps(CONFIG))
    monkeypatch.chdir(tiny.folder)
    with pytest.raises(UsageError, match=r"a resume loses loss.memory: it changes, and is in no checkpoint"):
        train.main(["-c", "c.json", "--check", "loss=Remembers"])


def test_a_frozen_batch_norm_that_moves_is_named(tiny, monkeypatch):
    class Frozen(nn.Module):
        def __init__(self, still: bool = False):
            super().__init__()
            self.norm, self.head = nn.BatchNorm1d(64).requires_grad_(False), nn.Linear(64, 10)
            if still:
                self.norm.eval()

        def forward(self, x):
            return self.head(self.norm(x.flatten(1)))

    monkeypatch.setattr(model.model, "Frozen", Frozen, raising=False)
    moved = tiny.train("arch=Frozen")
    assert "norm: batch norm with frozen weights still updates its running statistics" in tiny.log()
    assert moved.model.norm.num_batches_tracked == 12
    still = tiny.train("arch={type: Frozen, args: {still: true}}", run="still")
    assert "batch norm with frozen weights" not in tiny.log("still")
    assert still.model.norm.num_batches_tracked == 0
