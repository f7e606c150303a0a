"""Where the time goes: every second once, and on a GPU parted by the GPU's own clock."""

import time

import pytest
import torch

from tests.tiny import tiny
from trainer.clock import Clock

__all__ = ["tiny"]


def test_every_second_of_the_loop_is_in_one_part(tiny):
    trainer = tiny.build()
    original = trainer._train

    def timed():
        began = time.perf_counter()
        original()
        trainer.taken = time.perf_counter() - began

    trainer._train = timed
    forward = trainer.model.forward

    def slow(x):
        time.sleep(0.02)
        return forward(x)

    trainer.model.forward = slow
    trainer.train()
    shares = trainer.clock.shares()
    assert max(shares, key=lambda part: shares[part]) == "forward"
    assert shares["forward"] >= 12 * 0.02
    assert shares["validation"] >= 2 * 4 * 0.02
    order = ["data", "forward", "backward", "optimizer", "logging", "validation", "checkpoints", "other"]
    assert list(shares) == order
    assert sum(shares.values()) == pytest.approx(trainer.taken, rel=0.05)


class Event:
    """A GPU's clock: 1 ms further for each event."""

    now = 0.0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        Event.now += 1.0 if Event.now % 4 else 5.0
        self.at = Event.now

    def synchronize(self) -> None: ...

    def elapsed_time(self, other: "Event") -> float:
        return other.at - self.at


def test_on_a_gpu_waiting_is_computing(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", Event)
    clock = Clock(torch.device("cuda"))
    for step in range(4):
        clock.mark("data")
        if step == 3:
            clock.look_closer()
        for name in ("forward", "backward", "optimizer"):
            clock.mark(name)
    time.sleep(0.05)
    clock.waited()
    shares = clock.shares()
    assert "waiting" not in shares
    assert sum(shares.values()) == pytest.approx(sum(clock.seconds.values()))
    assert sum(shares[name] for name in ("forward", "backward", "optimizer")) >= 0.05
    assert shares["forward"] == pytest.approx(shares["backward"], rel=1e-6)  # 1 ms each
    assert shares["optimizer"] == pytest.approx(shares["backward"], rel=1e-6)
    assert str(clock).startswith("time: 0.1 s  ")
