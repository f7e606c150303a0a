"""Metrics: per sample, per batch, as objects; exact over steps of uneven size."""

import math

import pytest
import torch

import model.metric
from tests.tiny import tiny
from trainer.metrics import Monitor, Sums

__all__ = ["tiny"]


def named(monkeypatch, **metrics):
    for name, metric in metrics.items():
        monkeypatch.setattr(model.metric, name, metric, raising=False)


def test_values_per_sample_and_batch_means():
    sums = Sums()
    sums.add("sample", torch.tensor([1.0, 2.0, 6.0]), 3)
    sums.add("sample", torch.tensor([False]), 1)
    sums.add("batch", torch.tensor(3.0), 3)
    sums.add("batch", torch.tensor(7.0), 1)
    sums.add("number", 3.0, 3)
    sums.add("number", 7, 1)
    assert sums.read() == {"sample": (9.0, 4), "batch": (16.0, 4), "number": (16.0, 4)}
    assert sums.means() == {"sample": 2.25, "batch": 4.0, "number": 4.0}


def test_sums_are_in_float64():
    sums = Sums()
    for _ in range(1000):
        sums.add("x", torch.full((100,), 0.1), 100)
    assert sums.read()["x"][0] == pytest.approx(1e5 * torch.tensor(0.1).item(), rel=1e-12)


@pytest.mark.parametrize("shape", [(2,), (4,), (3, 1), (3, 10)])
def test_a_wrong_shape_is_told(shape):
    with pytest.raises(ValueError, match=r"right_way: got a value of shape .* for 3 samples; return one number per"):
        Sums().add("right_way", torch.zeros(shape), 3)


def test_state_of_sums():
    sums, other = Sums(), Sums()
    sums.add("x", torch.tensor([1.0, 2.0]), 2)
    other.load_state_dict(sums.state_dict())
    other.add("x", torch.tensor([6.0]), 1)
    assert other.means() == {"x": 3.0}


def test_scalar_metrics_weigh_as_many_samples_as_they_saw(tiny, monkeypatch):
    """A metric of the 2020 template, that returns a Python number for a batch, gives what one per sample gives."""

    def old(output, target):
        return (output.argmax(1) == target).sum().item() / len(target)

    named(monkeypatch, old=old)
    # 1,400 samples in 32 steps of 43 or 44, 100 in 3 batches of 33 or 34
    tiny.train("metrics=[accuracy, old]", "data_loader.args.batch_size=45", "trainer.limit_batches=null")
    points = tiny.points("train") + tiny.points("valid")
    assert len(points) > 10
    assert [p["old"] for p in points] == pytest.approx([p["accuracy"] for p in points], rel=1e-7)


def test_a_wrong_shape_ends_the_run_with_the_metrics_name(tiny, monkeypatch):
    def per_class(output, target):
        return output.mean(0)

    named(monkeypatch, per_class=per_class)
    with pytest.raises(ValueError, match=r"per_class: got a value of shape \[10\] for 28 samples"):
        tiny.train("metrics=[per_class]")


def test_an_object_is_computed_over_a_whole_validation(tiny, monkeypatch):
    class Spread:
        """Greatest less smallest number of times that a class was the answer: no average over samples."""

        def __init__(self, classes: int):
            self.counts = torch.zeros(classes)

        def reset(self):
            self.counts.zero_()

        def update(self, output, target):
            assert not output.requires_grad
            self.counts += output.argmax(1).bincount(minlength=len(self.counts))

        def compute(self):
            return self.counts.max() - self.counts.min()

    named(monkeypatch, Spread=Spread)
    trainer = tiny.train("metrics=[accuracy, {type: Spread, args: {classes: 10}}]", "trainer.monitor=min val_Spread")
    inputs, _ = (torch.cat(parts) for parts in zip(*trainer.valid_data_loader, strict=True))
    with torch.no_grad():
        counts = trainer.model.eval()(inputs).argmax(1).bincount(minlength=10)
    assert tiny.points("valid")[-1]["Spread"] == counts.max() - counts.min()
    assert counts.sum() == 100
    assert all("Spread" not in point for point in tiny.points("train"))
    assert "val_Spread" in tiny.log()


def test_arguments_of_a_metric(tiny):
    done = tiny.train("metrics=[{type: top_k_acc, args: {k: 10}}]")
    assert {point["top_k_acc"] for point in tiny.points("train")} == {1.0}
    assert done.evaluate(done.valid_data_loader)["top_k_acc"] == 1.0


# -- monitor


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
