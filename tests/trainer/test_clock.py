"""Where the time goes: every second once, and on a GPU parted by the GPU's own clock."""

from types import SimpleNamespace

import pytest
import torch

from tests.tiny import tiny
from trainer import base_trainer
from trainer.clock import Clock

__all__ = ["tiny"]


@pytest.fixture
def now(monkeypatch):
    """The clock's time, [seconds], which moves only when a test moves it."""
    now = [0.0]
    monkeypatch.setattr("trainer.clock.time", SimpleNamespace(perf_counter=lambda: now[0]))
    return now


@pytest.mark.parametrize("n", [1, 2])
def test_every_second_of_the_loop_is_in_one_part(tiny, now, n, monkeypatch):
    def lasting(seconds, function):
        def slow(*args, **kwargs):
            now[0] += seconds
            return function(*args, **kwargs)

        return slow

    trainer = tiny.build(f"trainer.accumulate={n}")
    now[0] = 5000  # building takes long, and is not in it
    trainer.model.forward = lasting(100, trainer.model.forward)
    monkeypatch.setattr(base_trainer, "backward", lasting(1000, base_trainer.backward))
    trainer.optimizer.step = lasting(10, trainer.optimizer.step)
    trainer.reporter.train_point = lasting(1, trainer.reporter.train_point)
    trainer.callbacks = [SimpleNamespace(after_step=lasting(0.5, lambda trainer: None))]
    trainer.train()
    assert list(trainer.clock.shares().items()) == [
        ("data", 0),
        ("forward", n * 12 * 100),
        ("backward", n * 12 * 1000),
        ("optimizer", 12 * 10),
        ("logging", 4),
        ("validation", 2 * 4 * 100),
        ("checkpoints", 0),
        ("other", 12 * 0.5),
    ]


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


def test_on_a_gpu_waiting_is_computing(monkeypatch, now):
    monkeypatch.setattr(torch.cuda, "Event", Event)
    clock = Clock(torch.device("cuda"))
    for step in range(4):
        clock.mark("data")
        if step == 3:
            clock.look_closer()
        for name in ("forward", "backward", "optimizer"):
            clock.mark(name)
    now[0] = 0.06
    clock.waited()
    shares = clock.shares()
    assert "waiting" not in shares
    assert sum(shares[name] for name in ("forward", "backward", "optimizer")) == pytest.approx(0.06)
    assert shares["forward"] == pytest.approx(shares["backward"], rel=1e-6)  # 1 ms each
    assert shares["optimizer"] == pytest.approx(shares["backward"], rel=1e-6)
    assert str(clock).startswith("time: 0.1 s  ")
