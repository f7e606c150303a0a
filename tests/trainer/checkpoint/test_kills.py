"""Kill it anywhere, start it again: the end is that of the run that was never disturbed, bit for bit."""

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.slow import slow_but
from tests.trainer.checkpoint.harness import (
    STEPS,
    House,
    Patch,
    at_step,
    before,
    config,
    die,
    half_written,
    points,
    same_end,
    unequal,
)
from trainer.checkpoint import files as checkpoint
from trainer.checkpoint import writer
from trainer.engine.base_trainer import BaseTrainer
from trainer.engine.speed import kernels
from trainer.gan_trainer import GANTrainer
from trainer.trainer import Trainer

GAN = {"generator": {"type": "Adam", "args": {"lr": 0.01}}, "discriminator": {"type": "Adam", "args": {"lr": 0.01}}}

METHODS: dict[str, dict[str, Any]] = {
    "plain": config(),
    "accumulate": config(trainer__accumulate=3, trainer__save_steps=4, trainer__log_steps=5),
    "ema": config(
        callbacks=["EMA"],
        lr_scheduler={"type": "WarmupCosineLR"},
        optimizer__args__lr=0.3,
        trainer__monitor="min val_loss",
        trainer__early_stop=2,
        trainer__valid_steps=3,
        trainer__epochs=6,
    ),
    "gan": config(
        arch="TinyGAN",
        optimizer=GAN,
        loss="BCEWithLogitsLoss",
        metrics=[],
        trainer__type="GANTrainer",
        trainer__monitor="min loss",
    ),
}
LOSSES = {"plain": 1, "accumulate": 3, "ema": 1, "gan": 2}  # a step


def moment(name: str, method: str) -> Patch:
    """In the second epoch: between two micro-batches or two optimizers, before or in its validation, in a save."""
    if name == "mid-epoch":
        return before(kernels, "backward", die, when=(STEPS + 2) * LOSSES[method] + min(LOSSES[method], 2))
    if name == "epoch end":
        return before(BaseTrainer, "complete_step", die, when=lambda trainer: trainer.step == 2 * STEPS)
    if name == "validation":
        owner = GANTrainer if method == "gan" else Trainer
        return before(owner, "eval_step", die, when=lambda trainer, batch: trainer.step == 2 * STEPS)
    return half_written(3)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], House]:
    """The house of a method's run from start to end, without workers."""
    houses: dict[str, House] = {}

    def get(method: str) -> House:
        if method not in houses:
            houses[method] = House(tmp_path_factory.mktemp(method), METHODS[method])
            houses[method].train()
        return houses[method]

    return get


def nothing_half_written(house: House) -> None:
    """What has the name of a checkpoint is whole, whatever was killed."""
    for path in (house.run / "checkpoints").glob("[!.]*.pth"):
        checkpoint.load(path)


MOMENTS = itertools.product([0, 2], ["mid-epoch", "epoch end", "validation", "save"], METHODS)


@pytest.mark.parametrize(
    "workers, at, method",
    slow_but(lambda workers, at, method: at == "mid-epoch" if workers == 0 else method == "plain", MOMENTS),
)
def test_killed_and_resumed(
    workers: int, at: str, method: str, tmp_path: Path, undisturbed: Callable[[str], House]
) -> None:
    whole, house = undisturbed(method), House(tmp_path, METHODS[method])
    args = (f"data_loader.args.num_workers={workers}",)
    house.train(*args, patch=moment(at, method), code=137)
    assert house.steps
    assert house.steps[0] < whole.steps[0]
    nothing_half_written(house)
    house.train(*args)
    same_end(house, whole, but=("config",))
    assert not list(house.run.rglob(".tmp-*"))


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("function", ["verify", "sync_folder", "_copy_file"])
def test_killed_at_each_point_of_a_save(function: str, n: int, tmp_path: Path, undisturbed: Any) -> None:
    """Before it is read back, between its two names, before the oldest is deleted: last and best are sound."""
    house, whole = House(tmp_path, METHODS["ema"]), undisturbed("ema")
    house.train(patch=before(writer, function, die, when=n), code=137)
    nothing_half_written(house)
    house.train()
    same_end(house, whole)
    assert not list(unequal(house.state("model_best.pth")["model"], whole.state("model_best.pth")["model"]))


def test_killed_again_and_again(tmp_path: Path) -> None:
    """At every other step, with TensorBoard: each point once, in order, without a gap."""
    spec = config(trainer__tensorboard=True, trainer__monitor="min val_loss")
    house, whole = House(tmp_path / "a", spec), House(tmp_path / "b", spec)
    whole.train()
    for step in range(1, 18, 2):
        house.train(patch=at_step(step, die), code=137)
    house.train()
    same_end(house, whole, but=("logs",))
    assert points(house) == points(whole)


def test_killed_while_a_resume_cuts_the_files(tmp_path: Path, undisturbed: Any) -> None:
    """Results of test.py, which stand behind the point of the checkpoint, are kept as well."""
    house, whole = House(tmp_path, METHODS["plain"]), undisturbed("plain")
    house.train(patch=at_step(11, die), code=137)
    result = b'{"step": 8, "epoch": 2, "split": "test", "loss": 1.0}\n'
    with open(house.run / "metrics.jsonl", "ab") as file:
        file.write(result + b'{"step": 11, "ep')
    for function in ("replace", "fsync"):
        house.train(patch=before(os, function, die, when=2), code=137)
    house.train()
    lines = house.metrics().splitlines(keepends=True)
    assert b"".join(line for line in lines if b'"test"' not in line) == whole.metrics()
    assert lines.count(result) == 1
