"""One rank in trouble: the others do not wait for it, and the first cause is reported once, with its rank."""

import os
import signal
import socket
import time

import pytest

from tests.trainer.parallel.ranks import on_ranks, trained


def at_step_5(trouble):
    """A change of the trainer: `trouble()` in the fifth step of rank 1."""

    def change(trainer):
        step = trainer.train_step

        def train_step(batches):
            if trainer.rank == 1 and trainer.step == 4:
                trouble()
            step(batches)

        trainer.train_step = train_step

    return change


def fail():
    raise ZeroDivisionError("a bug of rank 1")


def hang():
    time.sleep(1000)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def failing(trainer):
    at_step_5(fail)(trainer)


def hanging(trainer):
    at_step_5(hang)(trainer)


def dying(trainer):
    at_step_5(die)(trainer)


def diverging(trainer):
    step = trainer.train_step

    def train_step(batches):
        if trainer.rank == 1 and trainer.step == 4:
            batches[0].data[0].mul_(float("nan"))
        step(batches)

    trainer.train_step = train_step


@pytest.mark.parametrize(
    "trouble, timeout, codes, reported",
    [
        (failing, 1000, {1}, "rank 1 failed: Traceback"),
        pytest.param(dying, 1000, {1, -signal.SIGKILL}, "rank 1 (HOST", marks=pytest.mark.slow),
        pytest.param(
            hanging,
            8,
            {3},
            "hangs in: computing step 5\nNothing moved for trainer.timeout = 8 seconds.",
            marks=pytest.mark.slow,
        ),
        (
            diverging,
            1000,
            {3},
            "the loss is nan in step 5 (epoch 1, lr 0.1); nothing of it was saved\n"
            "first not finite: output of layers.0 (Linear), on rank 1\n",
        ),
    ],
)
def test_first_cause(tmp_path, trouble, timeout, codes, reported):
    """Long before `trainer.timeout`, but for the one that hangs: on_ranks would not wait for it."""
    mlp = "arch={type: MLP, args: {in_features: 64}}"
    found = on_ranks(2, trained, [mlp, f"trainer.timeout={timeout}"], tmp_path, trouble)
    assert set(found) == codes
    log = (tmp_path / "run/log.txt").read_text()
    assert log.count("error: ") == 1
    assert reported.replace("HOST", socket.gethostname()) in log
