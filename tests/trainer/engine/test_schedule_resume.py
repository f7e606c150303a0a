"""Learning-rate schedules over a resume: the same run continues its curve, a changed one gets that of its config."""

from typing import Any

import pytest
import torch

from tests.slow import slow_but
from tests.tiny import tiny
from utils.errors import UsageError

__all__ = ["tiny"]
BASE = ["optimizer={type: SGD, args: {lr: 0.1, momentum: 0.9}}", "trainer.limit_batches=3", "trainer.log_steps=1"]
SCHEDULES = [
    "{type: StepLR, args: {step_size: 1, gamma: 0.5}}",
    "{type: MultiStepLR, args: {milestones: [1, 3], gamma: 0.5}}",
    "{type: ExponentialLR, args: {gamma: 0.7}}",
    "CosineAnnealingLR",
    "{type: CosineAnnealingWarmRestarts, args: {T_0: 3}}",
    "{type: CosineAnnealingWarmRestarts, args: {T_0: 2, T_mult: 2}}",
    "{type: OneCycleLR, args: {max_lr: 0.3}}",
    "{type: CyclicLR, args: {base_lr: 0.01, max_lr: 0.2, step_size_up: 2}}",
    "{type: LinearLR, args: {total_iters: 4}}",
    "{type: ConstantLR, args: {total_iters: 2}}",
    "{type: PolynomialLR, args: {total_iters: 6, power: 2.0}}",
    "WarmupCosineLR",
    "{type: ReduceLROnPlateau, args: {patience: 0, threshold: 0.5}}",
]


def rates(tiny, run: str) -> dict[int, float]:
    return {point["step"]: point["lr"] for point in tiny.points("train", run)}


def of(schedule: str) -> list[str]:
    return [*BASE, f"lr_scheduler={schedule}", "trainer.monitor=min val_loss"]


FAST = SCHEDULES[::4]


@pytest.mark.parametrize("schedule", slow_but(FAST.__contains__, SCHEDULES))
def test_a_resume_continues_the_curve(tiny, schedule):
    whole = tiny.train(*of(schedule), "trainer.epochs=6", "trainer.save_steps=7", "trainer.keep_last=20")
    expected = rates(tiny, "run")
    resumed = tiny.train(*of(schedule), "trainer.epochs=6", checkpoint="checkpoint-step14.pth")
    assert rates(tiny, "run") == expected
    assert all(map(torch.equal, whole.model.parameters(), resumed.model.parameters()))


@pytest.mark.parametrize("schedule", slow_but(FAST.__contains__, SCHEDULES[:-1]))
def test_more_epochs_continue_on_the_curve_of_the_new_length(tiny, schedule):
    tiny.train(*of(schedule), "trainer.epochs=8", run="whole")
    tiny.train(*of(schedule), "trainer.epochs=4")
    tiny.train(*of(schedule), "trainer.epochs=8")
    new, whole = rates(tiny, "run"), rates(tiny, "whole")
    assert [new[step] for step in range(13, 25)] == [whole[step] for step in range(13, 25)]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("{type: OneCycleLR, args: {max_lr: 0.3}}", "{type: OneCycleLR, args: {max_lr: 0.6}}"),
        ("{type: MultiStepLR, args: {milestones: [1, 3]}}", "{type: MultiStepLR, args: {milestones: [2, 5]}}"),
        (SCHEDULES[7], "{type: CyclicLR, args: {base_lr: 0.02, max_lr: 0.5, step_size_up: 4}}"),
    ],
)
def test_changed_arguments_are_used(tiny, before, after):
    tiny.train(*of(after), "trainer.epochs=6", run="whole")
    tiny.train(*of(before), "trainer.epochs=6", "trainer.max_steps=9", "trainer.save_steps=9")
    tiny.train(*of(after), "trainer.epochs=6")
    new, whole = rates(tiny, "run"), rates(tiny, "whole")
    assert [new[step] for step in range(10, 19)] == [whole[step] for step in range(10, 19)]
    assert "learning rate: " in tiny.log()
    assert ", as the config has changed" in tiny.log()


def test_a_schedule_that_would_have_ended_is_refused(tiny):
    cycle = "{type: OneCycleLR, args: {max_lr: 0.3, total_steps: %d}}"
    tiny.train(*of(cycle % 18), "trainer.epochs=4")
    with pytest.raises(UsageError, match="lr_scheduler: the new config's schedule ends before step 12"):
        tiny.train(*of(cycle % 6), "trainer.epochs=6")


def test_plateau_takes_changed_arguments_and_keeps_its_state(tiny):
    plateau = "{type: ReduceLROnPlateau, args: {patience: 0, threshold: 0.9, factor: %s}}"
    tiny.train(*of(plateau % 0.5), "trainer.epochs=4")
    resumed = tiny.train(*of(plateau % 0.1), "trainer.epochs=6")
    assert resumed.lr_scheduler.scheduler.factor == 0.1
    assert rates(tiny, "run")[18] == pytest.approx(rates(tiny, "run")[15] * 0.1)


def two_groups(params, lr: float = 0.1, weight_decay: float = 0.2):
    weights = [p for p in params if p.dim() > 1]
    biases = [p for p in params if p.dim() <= 1]
    groups: list[dict[str, Any]] = [{"params": weights}, {"params": biases, "lr": lr / 10, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr, weight_decay=weight_decay)


@pytest.mark.parametrize("schedule", ["null", "WarmupCosineLR", "{type: StepLR, args: {step_size: 1, gamma: 0.5}}"])
def test_every_group_follows_a_changed_learning_rate(tiny, monkeypatch, schedule):
    from trainer import optim

    monkeypatch.setattr(optim, "two_groups", two_groups, raising=False)
    options = ["optimizer={type: two_groups, args: {lr: 0.1}}", f"lr_scheduler={schedule}", "trainer.epochs=4"]
    tiny.train(*options, "trainer.max_steps=12", "trainer.save_steps=12")
    resumed = tiny.train(*options, "optimizer.args.lr=0.2", "trainer.max_steps=13")
    whole = tiny.train(*options, "optimizer.args.lr=0.2", "trainer.max_steps=13", run="whole")
    groups = [resumed.optimizer.param_groups, whole.optimizer.param_groups]
    assert [g["lr"] for g in groups[0]] == [g["lr"] for g in groups[1]]
    assert [g["weight_decay"] for g in groups[0]] == [0.2, 0.0]
    assert groups[0][1]["lr"] == pytest.approx(groups[0][0]["lr"] / 10)
