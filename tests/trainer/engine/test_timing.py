"""Where the time goes: every second once, and on a GPU parted by the GPU's own clock."""

from types import SimpleNamespace

import pytest
import torch

from tests.tiny import tiny
from trainer.checkpoint import resume
from trainer.engine.speed import kernels
from trainer.engine.timing import Advisor, Clock

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
        ("logging", 4 + 100),  # one sample goes through the model for the table of its layers
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


@pytest.mark.parametrize(
    "shares, loader, lines",
    [
        (
            {"data": 63, "forward": 37},
            Advisor(0, False, 2),
            ["63% of the time was spent waiting for data: set data_loader.args.num_workers=2"],
        ),
        (
            {"data": 63, "forward": 37},
            Advisor(0, False, 64),
            ["63% of the time was spent waiting for data: set data_loader.args.num_workers=4"],
        ),
        (
            {"data": 63, "forward": 37},
            Advisor(4, False, 6),
            ["63% of the time was spent waiting for data: raise data_loader.args.num_workers from 4 to 6"],
        ),
        (
            {"data": 63, "forward": 37},
            Advisor(0, True, 8),
            [
                "63% of the time was spent waiting for data: build whole batches in the data set's __getitems__, or "
                "set data_loader.args.resident=true on a GPU"
            ],
        ),
        (
            {"data": 63, "forward": 37},
            Advisor(0, False, 1),
            [
                "63% of the time was spent waiting for data: all cores read already: make a sample cheaper, "
                "such as smaller image files and fewer transforms"
            ],
        ),
        (
            {"data": 63, "forward": 37},
            Advisor(2, False, 2),
            [
                "63% of the time was spent waiting for data: all cores read already: make a sample cheaper, "
                "such as smaller image files and fewer transforms"
            ],
        ),
        ({"data": 29, "forward": 71}, Advisor(0, False, 8), []),  # as it should be
        ({"data": 6.3, "forward": 3.6}, Advisor(0, False, 8), []),  # a short run
        ({}, Advisor(0, False, 8), []),
    ],
)
def test_advice(shares, loader, lines):
    assert loader.advice(shares) == lines


def test_advice_begins_with_what_takes_most():
    lines = Advisor(0, False, 8).advice({"forward": 20, "checkpoints": 25, "validation": 45, "logging": 10})
    assert [line.split(":")[0] for line in lines] == [
        "45% of the time went into validation",
        "25% of the time went into checkpoints",
    ]


def test_advice_at_the_end_of_a_run(tiny, now, monkeypatch):
    """After the line `time:`, in log.txt too; the data are in memory."""
    trainer = tiny.build()
    read = trainer.read

    def slow(stream):
        now[0] += 10
        return read(stream)

    trainer.read = slow
    resume.start(trainer)
    trainer.train()
    trainer.run.close()
    lines = tiny.log().splitlines()
    at = next(i for i, line in enumerate(lines) if "time: 120.0 s  data 100%" in line)
    assert lines[at + 1].endswith(
        "100% of the time was spent waiting for data: build whole batches in the data set's __getitems__, or set "
        "data_loader.args.resident=true on a GPU"
    )
