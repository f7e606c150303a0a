"""EMA: its formula, what is validated, what is trained, and a resume."""

import copy

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import trainer.callbacks.ema
from data_loader.data_loaders import DigitsDataLoader
from tests.tiny import tiny
from trainer import load_model
from utils.errors import UsageError

__all__ = ["tiny"]
BATCH_NORM = "arch={type: ConvNet, args: {widths: [4], depth: 1}}"


class Weights:
    """Keeps a copy of all weights and buffers after each step."""

    def __init__(self):
        self.seen = []

    def after_step(self, trainer):
        self.seen.append(copy.deepcopy(trainer.model.state_dict()))


@pytest.fixture(autouse=True)
def _name_it(monkeypatch):
    monkeypatch.setattr(trainer.callbacks, "Weights", Weights, raising=False)


def test_ema_is_the_average_of_its_formula(tiny):
    done = tiny.train(BATCH_NORM, "callbacks=[Weights, {type: EMA, args: {decay: 0.5}}]", "trainer.epochs=3")
    weights, ema = done.callbacks
    average = {name: value.clone() for name, value in weights.seen[0].items()}
    for step, now in enumerate(weights.seen[1:], start=2):
        decay = min(0.5, step / (step + 10))
        for name, value in now.items():
            if value.is_floating_point():
                average[name] = average[name] * decay + value * (1 - decay)
    assert len(weights.seen) == ema.steps == 18
    assert ema.average.keys() == {name for name in average if "num_batches" not in name}
    for name, value in ema.average.items():
        torch.testing.assert_close(value, average[name], rtol=1e-5, atol=1e-6)


def test_ema_validates_with_the_average_and_trains_with_the_weights(tiny):
    plain = tiny.train(run="plain")
    with_ema = tiny.train("callbacks=[EMA]", run="ema")
    assert tiny.points("train", "plain") == tiny.points("train", "ema")
    assert all(torch.equal(a, b) for a, b in zip(plain.model.parameters(), with_ema.model.parameters(), strict=True))
    plain.model.load_state_dict(with_ema.callbacks[0].average)
    expected = plain.evaluate(plain.valid_data_loader)
    got = {name: tiny.points("valid", "ema")[-1][name] for name in expected}
    assert got == expected != {name: tiny.points("valid", "plain")[-1][name] for name in expected}


def test_ema_resumes(tiny):
    whole = tiny.train(BATCH_NORM, "callbacks=[EMA]", "trainer.save_steps=5", run="whole")
    tiny.train(BATCH_NORM, "callbacks=[EMA]", "trainer.max_steps=5")
    resumed = tiny.train(BATCH_NORM, "callbacks=[EMA]")
    one, two = whole.callbacks[0], resumed.callbacks[0]
    assert one.steps == two.steps == 12
    assert all(torch.equal(one.average[name], two.average[name]) for name in one.average)
    assert tiny.points("valid")[-1] == tiny.points("valid", "whole")[-1]


class FakeQuantized(torch.nn.Module):
    """Quantization-aware training: its observer's buffers begin as infinities and get a shape from the first data."""

    def __init__(self):
        super().__init__()
        from torch.ao.quantization import FakeQuantize, MovingAveragePerChannelMinMaxObserver

        self.layer = torch.nn.Linear(64, 10)
        options = {"dtype": torch.qint8, "quant_min": -128, "quant_max": 127, "qscheme": torch.per_channel_symmetric}
        self.quantize = FakeQuantize(observer=MovingAveragePerChannelMinMaxObserver, ch_axis=1, **options)

    def forward(self, x):
        return self.quantize(self.layer(x.flatten(1)))


@pytest.mark.filterwarnings("ignore")  # torch.ao moves to another package
def test_quantization_observers_under_an_ema(tiny, monkeypatch):
    import model.model

    monkeypatch.setattr(model.model, "FakeQuantized", FakeQuantized, raising=False)
    whole = tiny.train("arch=FakeQuantized", "callbacks=[EMA]", "trainer.save_steps=5", run="whole")
    tiny.train("arch=FakeQuantized", "callbacks=[EMA]", "trainer.max_steps=5")
    resumed = tiny.train("arch=FakeQuantized", "callbacks=[EMA]")
    state, again = whole.model.state_dict(), resumed.model.state_dict()
    assert state.keys() == again.keys()
    assert all(torch.equal(state[name], again[name]) for name in state)
    average = whole.callbacks[0].average
    assert average["quantize.activation_post_process.max_val"].shape == (10,)
    assert all(value.isfinite().all() for value in average.values())
    points = tiny.points("valid", "whole")
    assert points[-1] == tiny.points("valid")[-1]
    assert points[-1]["accuracy"] > points[0]["accuracy"]


def test_without_warmup_it_is_the_average_of_torch(tiny):
    done = tiny.train(BATCH_NORM, "callbacks=[Weights, {type: EMA, args: {decay: 0.9, warmup: false}}]")
    weights, ema = done.callbacks
    model = copy.deepcopy(done.model)
    torchs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    for now in weights.seen:
        model.load_state_dict(now)
        torchs.update_parameters(model)
    expected = torchs.module.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in ema.average.items())
    assert ema.average.keys() == {name for name in expected if "num_batches" not in name}


def test_the_best_checkpoint_and_test_py_use_the_average(tiny):
    tiny.train(BATCH_NORM, "callbacks=[{type: EMA, args: {decay: 0.8}}]", "trainer.monitor=min val_loss")
    best = tiny.folder / "run/checkpoints/model_best.pth"
    values = tiny.tested(best)
    model = load_model(best)
    with torch.no_grad():
        right = [model(inputs).argmax(1) == targets for inputs, targets in DigitsDataLoader(97, training=False)]
    assert values["accuracy"] == pytest.approx(torch.cat(right).double().mean().item(), abs=1e-7)
    saved = tiny.load("model_best.pth")
    assert any(not torch.equal(saved["model"][name], value) for name, value in saved["raw_model"].items())


@pytest.mark.parametrize("decay", [2, 1.0, -0.1, float("nan")])
def test_a_decay_that_is_none(decay):
    with pytest.raises(UsageError, match=r"EMA: decay is .*; give a number from 0 to below 1"):
        trainer.callbacks.ema.EMA(decay=decay)


def test_two_averages(tiny):
    with pytest.raises(UsageError, match="SWA and EMA both give the weights to evaluate"):
        tiny.train("callbacks=[SWA, EMA]")
