"""Callbacks: the three hooks, their order and state; EMA and GeneratedImages."""

import copy

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

import model.model
import trainer.callbacks
from tests.tiny import tiny

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


def test_hooks_run_in_the_order_of_the_config(tiny, monkeypatch):
    told = []

    class First:
        def after_step(self, trainer):
            told.append((type(self).__name__, trainer.step + 1))

        def after_epoch(self, trainer, values):
            told.append((type(self).__name__, sorted(values)))

    class Second(First):
        pass

    for callback in (First, Second):
        monkeypatch.setattr(trainer.callbacks, callback.__name__, callback, raising=False)
    tiny.train("callbacks=[Second, First]", "trainer.epochs=1", "trainer.limit_batches=1")
    values = ["accuracy", "loss", "val_accuracy", "val_loss"]
    assert told == [("Second", 1), ("First", 1), ("Second", values), ("First", values)]


def test_a_callback_ends_the_run(tiny, monkeypatch):
    class Ender:
        def after_step(self, trainer):
            if trainer.step + 1 == 4:
                trainer.stop("four is enough")

    monkeypatch.setattr(trainer.callbacks, "Ender", Ender, raising=False)
    done = tiny.train("callbacks=[Ender]")
    assert done.step == 4
    assert "finished at step 4: four is enough\n" in tiny.log()
    assert tiny.load("checkpoint-step4.pth")["step"] == 4
    tiny.train("callbacks=[Ender]")
    assert tiny.steps("train") == [4]  # finished, also for a resume


def test_state_of_a_callback_is_in_the_checkpoint_and_comes_back(tiny, monkeypatch):
    class Counter:
        def __init__(self):
            self.count = 0

        def after_step(self, trainer):
            self.count += 1

        def state_dict(self):
            return {"count": self.count}

        def load_state_dict(self, state):
            self.count = state["count"]

    monkeypatch.setattr(trainer.callbacks, "Counter", Counter, raising=False)
    tiny.train("callbacks=[Counter]", "trainer.epochs=1")
    assert tiny.load("checkpoint-step6.pth")["callbacks"] == [{"count": 6}]
    assert tiny.train("callbacks=[Counter]").callbacks[0].count == 12


def test_generated_images(tiny, monkeypatch):
    class TinyGAN(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.latent = 4
            self.generator = torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.Unflatten(1, (1, 8, 8)))
            self.discriminator = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 1), torch.nn.Flatten(0))

    monkeypatch.setattr(model.model, "TinyGAN", TinyGAN, raising=False)
    adam = "{type: Adam, args: {lr: 0.01}}"
    gan = ["arch=TinyGAN", "loss=BCEWithLogitsLoss", "metrics=[]", "trainer.type=GANTrainer"]
    gan += [f"optimizer={{generator: {adam}, discriminator: {adam}}}", "trainer.tensorboard=true"]
    tiny.train(*gan, "callbacks=[{type: GeneratedImages, args: {images: 10}}]", run="with")
    events = EventAccumulator(str(tiny.folder / "with"))
    events.Reload()
    pictures = events.Images("train/generated")
    assert [(p.step, p.width, p.height) for p in pictures] == [(6, 82, 22), (12, 82, 22)]
    tiny.train(*gan, run="without")
    assert tiny.points("train", "with") == tiny.points("train", "without")  # drawing disturbs nothing
    assert tiny.points("train", "with")[0].keys() == {
        *("step", "epoch", "split", "loss", "d_loss", "lr_generator", "lr_discriminator")
    }
