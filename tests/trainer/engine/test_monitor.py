"""Monitor: names it takes, the best so far, when to stop."""

import math

import pytest

import model.metric
from tests.tiny import Tiny, tiny
from trainer.engine.monitor import Monitor

__all__ = ["tiny"]


@pytest.mark.parametrize(
    ("monitor", "key"),
    [
        ("min val_loss", "val_loss"),
        ("max valid/accuracy", "val_accuracy"),
        ("min loss", "loss"),
        ("min train/loss", "loss"),
    ],
)
def test_names_a_monitor_takes(monitor, key):
    assert Monitor(monitor, None).key == key


def test_monitor_keeps_the_best_and_counts():
    monitor = Monitor("min val_loss", 2)
    assert [monitor.update(v, s) for s, v in enumerate([3.0, 2.0, 2.0, 1.0, math.nan])] == [
        True,
        True,
        False,
        True,
        False,
    ]
    assert (monitor.best, monitor.best_step, monitor.bad_count, monitor.stop) == (1.0, 3, 1, False)
    other = Monitor("min val_loss", 2)
    other.load_state_dict(monitor.state_dict())
    assert not other.update(5.0, 5)
    assert other.stop
    assert Monitor("max x", None).update(-5.0, 1)


def test_several_best():
    monitor = Monitor("max val_accuracy", None, keep_best=2)
    for step, value in enumerate([0.2, 0.5, math.nan, 0.5, 0.1, 0.4]):
        monitor.update(value, step)
    assert monitor.top == [[0.5, 1], [0.5, 3]]
    other = Monitor("max val_accuracy", None, keep_best=2)
    other.load_state_dict(monitor.state_dict())
    other.update(0.9, 9)
    assert other.top_steps == [9, 1]


class Detections:
    """As the mean average precision of torchmetrics: many values."""

    def reset(self) -> None: ...

    def update(self, output: object, target: object) -> None: ...

    def compute(self) -> dict[str, float]:
        return {f"map_{i}": float(i) for i in range(90)}


def test_the_console_shows_it_where_it_is_one_of_many(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.metric, "Detections", Detections, raising=False)
    tiny.train("metrics=[Detections]", "trainer.monitor=max val_Detections_map_75")
    [line] = [line for line in tiny.log().splitlines() if "epoch 1/" in line]
    assert "val_Detections_map_75 75" in line
    assert "map_74" not in line
