"""Monitor: names it takes, the best so far, when to stop."""

import math

import pytest

from trainer.engine.monitor import Monitor


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
