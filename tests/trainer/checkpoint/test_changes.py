"""What is changed between a checkpoint and its resume is exact, or reported, or refused."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.slow import slow_but
from tests.trainer.checkpoint.harness import STEPS, Drawing, House, at_step, config, die, same_end, unequal
from trainer.checkpoint import files as checkpoint
from trainer.checkpoint import state

SCHEDULE = {"type": "CosineAnnealingLR", "interval": "step"}


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> House:
    """A run that was killed in its second epoch."""
    house = House(tmp_path_factory.mktemp("begun"), config(callbacks=["EMA"], lr_scheduler=SCHEDULE))
    house.train(patch=at_step(9, die), code=137)
    return house


@pytest.fixture
def house(begun: House, tmp_path: Path) -> House:
    """A copy of it."""
    return begun.copy(tmp_path / "house")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> House:
    house = House(tmp_path_factory.mktemp("whole"), config(callbacks=["EMA"], lr_scheduler=SCHEDULE))
    house.train()
    return house


@pytest.mark.parametrize(
    "change",
    [
        "data_loader.args.num_workers=2",
        "trainer.save_steps=3",
        "trainer.keep_last=5",
        "trainer.tensorboard=true",
        "trainer.verbosity=0",
    ],
)
def test_exact(change: str, house: House, whole: House) -> None:
    text = house.train(change).text
    assert "warning" not in text
    same_end(house, whole, but=("config", "logs"))


WARNINGS = {
    "data_loader.args.batch_size=20": (
        "batch_size: 30 -> 20; not bit-exact from here on: the steps ahead take other samples"
    ),
    "data_loader.args.validation_split=0.2": (
        "samples: 1350 -> 1200; not bit-exact from here on: the epochs ahead have other samples"
    ),
    "trainer.limit_batches=5": (
        "steps_per_epoch: 6 -> 5; not bit-exact from here on: the step count continues; the epoch number changes"
    ),
    "trainer.accumulate=2": (
        "shards: 1 -> 2; not bit-exact from here on: ranks x micro-batches changed: dropout draws other numbers, "
        "sums are rounded differently"
    ),
    "trainer.monitor=min val_loss": (
        "trainer.monitor: off -> min val_loss; the best value so far was another's: it starts afresh"
    ),
    "trainer.precision=fp16": "checkpoint-step8.pth holds no state of `scaler`: it starts afresh",
    "callbacks=[]": "checkpoint-step8.pth: its state of `callbacks` is not used: the current config has none",
    "lr_scheduler=null": "checkpoint-step8.pth: its state of `lr_scheduler` is not used: the current config has none",
}


@pytest.mark.parametrize("change", WARNINGS)
def test_warned(change: str, house: House) -> None:
    result = house.train(change)
    assert f"warning: {WARNINGS[change]}" in result.lines
    assert any(line.startswith(f"changed: {change.split('=')[0]}") for line in result.lines)
    assert sum(line.startswith("warning: ") for line in result.lines) == 1


@pytest.mark.parametrize(
    "key, new, reported",
    [
        ("torch", "1.0", "numbers may be rounded differently"),
        ("device", "cuda", "numbers are rounded differently"),
        ("code", "0123", "the code of this project changed since the checkpoint"),
        ("ranks", 2, "sums are rounded differently"),
        ("threads", 3, "torch uses another number of CPU threads: numbers may be rounded differently"),
    ],
)
def test_warned_of_the_environment(key: str, new: Any, reported: str, house: House) -> None:
    original = state.environment
    patch = lambda: setattr(state, "environment", lambda trainer: original(trainer) | {key: new})  # noqa: E731
    text = house.train(patch=patch).text
    assert f"-> {new}; not bit-exact from here on: {reported}\n" in text


def test_warned_of_the_length_of_the_data_set(tmp_path: Path) -> None:
    house = House(tmp_path, config(data_loader={"type": "DrawingDataLoader", "args": {"batch_size": 30}}))
    house.train(patch=at_step(9, die), code=137)
    shorter = lambda: setattr(Drawing.__init__, "__defaults__", (190,))  # noqa: E731
    assert "warning: samples: 200 -> 190; not bit-exact from here on: " in house.train(patch=shorter).text


REFUSED = {
    "arch.args.widths=[8]": [
        "error: saved/t/r/checkpoints/checkpoint-step8.pth: its state of `model` does not fit the config's `model`:",
        "Continue with the config it was made with, or start a new run from these weights instead: "
        "init_from=saved/t/r/checkpoints/checkpoint-step8.pth",
    ],
    "optimizer={type: SGD, args: {lr: 0.1}}": [
        "error: saved/t/r/checkpoints/checkpoint-step8.pth: its state of `optimizer` is of AdamW, the config names SGD",
    ],
    "lr_scheduler={type: StepLR, args: {step_size: 2}}": [
        "error: saved/t/r/checkpoints/checkpoint-step8.pth: its state of `lr_scheduler` is of CosineAnnealingLR, the "
        "config names StepLR",
    ],
}


@pytest.mark.parametrize("change", REFUSED)
def test_refused(change: str, house: House) -> None:
    files = house.files()
    result = house.train(change, code=2)
    for line in REFUSED[change]:
        assert line in result.lines, result.text
    assert house.files() == files


def rate(house: House) -> float:
    return house.state()["optimizer"]["param_groups"][0]["lr"]


SCHEDULES = [None, SCHEDULE, {"type": "WarmupCosineLR"}, {"type": "StepLR", "args": {"step_size": 1}}]


@pytest.mark.parametrize("schedule", slow_but(lambda schedule: schedule in SCHEDULES[:2], SCHEDULES), ids=str)
def test_lr_takes_effect(schedule: Any, tmp_path: Path) -> None:
    """As if it had been that from the start, wherever its schedule stands."""
    spec = config(lr_scheduler=schedule, trainer__epochs=4)
    house, other = House(tmp_path / "a", spec), House(tmp_path / "b", spec)
    house.train(patch=at_step(9, die), code=137)
    for each in (house, other):
        each.train("optimizer.args.lr=0.02", patch=at_step(17, die), code=137)
    assert rate(house) == pytest.approx(rate(other))


def test_other_options_take_effect(house: House) -> None:
    house.train("optimizer.args.weight_decay=0.5", "optimizer.args.betas=[0.5, 0.9]", patch=at_step(11, die), code=137)
    group = house.state()["optimizer"]["param_groups"][0]
    assert (group["weight_decay"], list(group["betas"])) == (0.5, [0.5, 0.9])
    house.train("optimizer.args.weight_decay=0.5", "optimizer.args.betas=[0.6, 0.9]")  # no longer the default's
    group = house.state()["optimizer"]["param_groups"][0]
    assert (group["weight_decay"], list(group["betas"])) == (0.5, [0.6, 0.9])


def test_option_taken_back(tmp_path: Path) -> None:
    """Without it in the config, it is the optimizer's default again."""
    house = House(tmp_path, config(optimizer__args__weight_decay=0.5))
    house.train(patch=at_step(9, die), code=137)
    house.write(config())
    house.train()
    assert house.state()["optimizer"]["param_groups"][0]["weight_decay"] == 0.01


@pytest.mark.parametrize("of_state", ["true", "false"])
def test_memory_format(of_state: str, tmp_path: Path) -> None:
    """What the optimizer keeps of a weight stays with it. (Fused kernels pair the two as they lie in memory.)"""
    spec = config(arch__args={"widths": [4, 6], "depth": 2}, trainer__channels_last=of_state == "true")
    house = House(tmp_path / "a", spec)
    house.train(patch=at_step(9, die), code=137)
    weights = []
    for today in ("true", "false"):
        other = house.copy(tmp_path / today)
        other.train(f"trainer.channels_last={today}")
        weights.append(other.state()["model"])
    for name, weight in weights[0].items():
        assert torch.allclose(weight, weights[1][name], atol=1e-5), name


def test_kind_of_kernel() -> None:
    """The optimizer's kernel is today's, and its state is where that reads it: a fused one on the device."""
    states, gpu = list[Any](), torch.device("meta")
    for fused, device in ((False, torch.device("cpu")), (True, gpu)):
        p = torch.nn.Parameter(torch.ones(2, device=device))
        optimizer = torch.optim.Adam([p])
        optimizer.param_groups[0]["fused"] = fused
        p.grad = torch.ones_like(p)
        if not states:
            optimizer.step()
            states.append(optimizer.state_dict())
    state._load(optimizer, states[0], "optimizer")
    assert optimizer.param_groups[0]["fused"]
    assert {key: value.device for key, value in optimizer.state[p].items()} == dict.fromkeys(optimizer.state[p], gpu)


BY_LENGTH = ["CosineAnnealingLR", "WarmupCosineLR", "OneCycleLR", "LinearLR"]


@pytest.mark.parametrize("schedule", slow_but("OneCycleLR".__eq__, BY_LENGTH))
def test_more_epochs(schedule: str, tmp_path: Path) -> None:
    """A schedule over the whole run goes on as over the longer run, not at the zero where it had ended."""
    args = {"OneCycleLR": {"max_lr": 0.01}, "LinearLR": {"total_iters": 60}}.get(schedule, {})
    spec = config(lr_scheduler={"type": schedule, "interval": "step", "args": args})
    house, other = House(tmp_path / "a", spec), House(tmp_path / "b", spec)
    house.train()
    text = house.train("trainer.epochs=6").text
    assert "changed: trainer.epochs: 3 -> 6" in text
    assert house.state()["step"] == 6 * STEPS
    other.train("trainer.epochs=6")
    points = [[line for line in h.metrics().decode().splitlines() if '"lr"' in line][-8:] for h in (house, other)]
    rates = [[float(line.split('"lr": ')[1].rstrip("}")) for line in lines] for lines in points]
    assert rates[0] == pytest.approx(rates[1], rel=1e-6, abs=1e-12)
    assert max(rates[0]) > 1e-4


def test_older_checkpoint_is_gone_back_to(house: House, whole: House) -> None:
    """The newer ones are set aside, and the end is the same."""
    result = house.command("-r", "saved/t/r/checkpoints/checkpoint-step6.pth")
    assert result.code == 0
    assert "warning: checkpoint-step8.pth is newer than step 6, where the run continues: renamed to " in result.text
    same_end(house, whole)


def test_loaded_is_what_was_saved(house: House) -> None:
    """A resume and a save at once: nothing of a checkpoint is forgotten."""
    before = house.state()
    house.train("trainer.max_steps=8", "trainer.epochs=null", "lr_scheduler.args.T_max=18")
    after = house.state()
    assert torch.equal(after["model"]["classifier.weight"], before["model"]["classifier.weight"])
    for part in ("optimizer", "callbacks", "window"):
        assert not list(unequal(after[part], before[part]))


def test_best_of_another_future_is_set_aside(tmp_path: Path) -> None:
    """Who goes back before the best, to change something, must not be given that best as this run's."""
    house = House(tmp_path, config(trainer__monitor="min val_loss", trainer__valid_steps=3, trainer__keep_last=9))
    house.train()
    best = house.state("model_best.pth")["step"]
    assert best > 6
    result = house.command("-r", "saved/t/r/checkpoints/checkpoint-step6.pth", "optimizer.args.lr=0.0")
    assert "warning: model_best.pth is newer than step 6, where the run continues: renamed to model_best.pth.bak" in (
        result.lines
    )


def test_best_between_two_broken_ones_is_used(tmp_path: Path) -> None:
    """The newest sound checkpoint counts, under whatever name."""
    spec = config(trainer__monitor="min val_loss", trainer__valid_steps=3, trainer__save_steps=8, trainer__keep_last=9)
    house, whole = House(tmp_path / "a", spec), House(tmp_path / "b", spec)
    whole.train()
    house.train(patch=at_step(17, die), code=137)
    best = house.state("model_best.pth")["step"]
    assert house.steps[-1] < best < house.steps[0]
    for path in checkpoint.checkpoints(house.run / "checkpoints"):
        if checkpoint.step_of(path) >= best:
            path.unlink()
            path.write_bytes(b"broken")
    assert f"continuing in saved/t/r from step {best}" in house.train().lines
    same_end(house, whole)


def test_init_from_may_be_gone_by_then(tmp_path: Path) -> None:
    """Weights that a run began with are not needed again."""
    first, house = House(tmp_path / "a", config()), House(tmp_path / "b", config(init_from="weights.pth"))
    first.train()
    (first.run / "checkpoints/checkpoint-step18.pth").rename(house.folder / "weights.pth")
    house.train(patch=at_step(9, die), code=137)
    (house.folder / "weights.pth").unlink()
    house.train()
