"""Schedules: when they step, and how long they take themselves to be."""

import math

import pytest
import torch

from tests.tiny import tiny
from tests.trainer.test_optim import of
from trainer.optim import WarmupCosineLR
from utils.errors import UsageError

__all__ = ["tiny"]
EVERY_STEP = "trainer.log_steps=1"


def rates(tiny, *overrides):
    """The learning rate of each step of two epochs of three."""
    tiny.train(*overrides, EVERY_STEP, "trainer.limit_batches=3")
    return [point["lr"] for point in tiny.points("train")]


def test_warmup_cosine_steps_each_step_over_the_whole_run(tiny):
    assert rates(tiny, "lr_scheduler=WarmupCosineLR") == of(WarmupCosineLR, 6, total_steps=6)


def test_step_lr_steps_each_epoch(tiny):
    got = rates(tiny, "lr_scheduler={type: StepLR, args: {step_size: 1, gamma: 0.5}}")
    assert got == [0.1, 0.1, 0.1, 0.05, 0.05, 0.05]


def test_interval_overrides(tiny):
    got = rates(tiny, "lr_scheduler={type: StepLR, args: {step_size: 1, gamma: 0.5}, interval: step}")
    assert got == pytest.approx([0.1 * 0.5**n for n in range(6)])


def test_one_cycle_total_steps_is_filled_in(tiny):
    got = rates(tiny, "lr_scheduler={type: OneCycleLR, args: {max_lr: 0.3}}")
    assert got == of(torch.optim.lr_scheduler.OneCycleLR, 6, max_lr=0.3, total_steps=6)
    assert got[-1] == pytest.approx(0.3 / 25 / 1e4)


def test_one_cycle_by_epochs_is_left_alone(tiny):
    args = "{max_lr: 0.3, epochs: 2, steps_per_epoch: 4}"
    got = rates(tiny, f"lr_scheduler={{type: OneCycleLR, args: {args}}}")
    assert got == of(torch.optim.lr_scheduler.OneCycleLR, 6, max_lr=0.3, total_steps=8)


def test_cosine_t_max_is_filled_in_by_epochs_or_steps(tiny):
    got = rates(tiny, "lr_scheduler=CosineAnnealingLR")
    assert got == pytest.approx([0.1, 0.1, 0.1, 0.05, 0.05, 0.05])
    tiny.train("lr_scheduler={type: CosineAnnealingLR, interval: step}", EVERY_STEP, "trainer.limit_batches=3", run="2")
    got = [point["lr"] for point in tiny.points("train", "2")]
    assert got == pytest.approx([0.05 * (1 + math.cos(math.pi * n / 6)) for n in range(6)])


def test_plateau_follows_the_monitor(tiny):
    plateau = "lr_scheduler={type: ReduceLROnPlateau, args: {patience: 0, threshold: 2.0, factor: 0.1}}"
    tiny.train(plateau, "trainer.epochs=4", "trainer.monitor=max val_accuracy")
    # no accuracy is three times as good as the first: the second validation lowers it for the third epoch, and so on
    lr = {point["step"]: point["lr"] for point in tiny.points("train")}
    assert [lr[step] for step in (6, 12, 18, 24)] == pytest.approx([0.1, 0.1, 0.01, 0.001])
    state = tiny.load("checkpoint-step24.pth")
    assert state["optimizer"]["param_groups"][0]["lr"] == pytest.approx(0.0001)
    assert state["lr_scheduler"]["scheduler"]["best"] == tiny.points("valid")[0]["accuracy"]


def test_plateau_without_a_monitor_is_refused(tiny):
    with pytest.raises(UsageError, match=r"ReduceLROnPlateau follows trainer.monitor, which is off; give one"):
        tiny.build("lr_scheduler=ReduceLROnPlateau")


def test_a_function_cannot_be_in_a_config(tiny):
    with pytest.raises(UsageError, match=r"LambdaLR needs a function, .* define a function of \(optimizer\) in"):
        tiny.build("lr_scheduler={type: LambdaLR, args: {lr_lambda: '0.9**epoch'}}")


def test_a_resume_continues_with_the_schedule(tiny):
    schedule = ["lr_scheduler=WarmupCosineLR", EVERY_STEP]
    tiny.train(*schedule, run="whole")
    tiny.train(*schedule, "trainer.save_steps=5", "trainer.keep_last=9")
    tiny.train(*schedule, checkpoint="checkpoint-step5.pth")
    assert tiny.points("train") == tiny.points("train", "whole")
