"""Where the time goes: every second once, and on a GPU parted by the GPU's own clock."""

from types import SimpleNamespace

import pytest
import torch

from tests.tiny import tiny
from trainer.checkpoint import resume
from trainer.engine import kernels
from trainer.engine.timing import Clock

__all__ = ["tiny"]


@pytest.fixture
def now(monkeypatch):
    """The clock's time, [seconds], which moves only when a test moves it."""
    now = [0.0]
    monkeypatch.setattr("trainer.engine.timing.perf_counter", lambda: now[0])
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
    monkeypatch.setattr(kernels, "backward", lasting(1000, kernels.backward))
    trainer.optimizer.step = lasting(10, trainer.optimizer.step)
    trainer.reporter.train_point = lasting(1, trainer.reporter.train_point)
    trainer.callbacks = [SimpleNamespace(after_step=lasting(0.5, lambda trainer: None))]
    resume.start(trainer)
    trainer.saving.save = lasting(0.25, trainer.saving.save)
    trainer.train()
    trainer.run.close()
    assert list(trainer.clock.shares().items()) == [
        ("forward", n * 12 * 100),
        ("backward", n * 12 * 1000),
        ("optimizer", 12 * 10),
        ("logging", 4),
        ("validation", 2 * 4 * 100),
        ("checkpoints", 2 * 0.25),
        ("other", 12 * 0.5),
    ]


class Event:
    """A GPU's clock, in ms, which moves only when a test moves it."""

    now = 0.0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at = Event.now

    def synchronize(self) -> None: ...

    def elapsed_time(self, other: "Event") -> float:
        return other.at - self.at


def test_on_a_gpu_waiting_is_computing(monkeypatch, now):
    """One of four steps is measured: its forward pass takes 1 + 1 ms, its backward pass 5, the optimizer 3."""
    monkeypatch.setattr(torch.cuda, "Event", Event)
    clock = Clock(torch.device("cuda"))
    for step in range(4):
        measured = step == 3
        with clock.phase("data"):
            Event.now += 100
        if measured:
            clock.measure_device()
        with clock.phase("forward"):
            Event.now += 1 if measured else 1000
            with clock.phase("backward"):
                Event.now += 5
            Event.now += 1
            with clock.phase("optimizer"):
                Event.now += 3
    now[0] = 0.06
    clock.waited()
    Event.now += 1000  # no longer measured
    with clock.phase("forward"):
        pass
    shares = clock.shares()
    assert "waiting" not in shares
    for name, ms in {"forward": 2, "backward": 5, "optimizer": 3}.items():
        assert shares[name] == pytest.approx(0.06 * ms / 10)
    assert str(clock).startswith("time: 0.1 s  ")


def test_a_phase_inside_of_itself_counts_once(now):
    clock = Clock(torch.device("cpu"))
    with clock.phase("validation"):
        now[0] += 1
        with clock.phase("validation"):
            now[0] += 2
        with clock.phase("checkpoints"):
            now[0] += 4
    now[0] += 8
    with clock.phase("data"):
        pass
    assert clock.shares() == {"validation": 3, "checkpoints": 4, "other": 8}
