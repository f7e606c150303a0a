"""Metrics: per sample, per batch, as objects; exact over steps of uneven size."""

import numpy as np
import pytest
import torch

import model.metric
from tests.tiny import tiny
from trainer.engine.metrics import Metrics, Sums

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
def test_a_wrong_shape_is_reported(shape):
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


@pytest.mark.parametrize(
    "wrong",
    [lambda output, target: output[:, :, None], lambda output, target: output[:12].flatten()],
    ids=["3-d", "long"],
)
def test_a_wrong_shape_ends_the_run_with_the_metrics_name(wrong, tiny, monkeypatch):
    named(monkeypatch, wrong=wrong)
    with pytest.raises(ValueError, match=r"wrong: got a value of shape \[.*\] for 28 samples"):
        tiny.train("metrics=[wrong]")


CPU = torch.device("cpu")
OUTPUTS, TARGETS = (
    torch.tensor([[0.0, 1.0, 3.0], [2.0, 0.0, 0.0], [0.0, 5.0, 0.0], [1.0, 1.0, 2.0]]),
    torch.arange(4) % 3,
)


def logged(function, outputs=OUTPUTS, targets=TARGETS, precision=torch.float32):
    """What one batch of a metric comes to in the log."""
    metrics, sums = Metrics([function], CPU, ["name"]), Sums()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        for name, value in metrics(outputs.to(precision), targets).items():
            sums.add(name, value, len(targets))
    return sums.means()


def right(output, target):
    return output.argmax(1) == target


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "kind",
    [
        lambda value: value,
        lambda value: value.tolist(),
        lambda value: value.numpy(),
        lambda value: value.float().mean(),
        lambda value: value.float().mean()[None],
        lambda value: value.half().mean(),
        lambda value: value.bfloat16(),
        lambda value: np.mean(value.numpy()),
        lambda value: np.float32(value.float().mean()),
        lambda value: np.array([value.float().mean()]),
        lambda value: value.float().mean().item(),
    ],
    ids=["tensor", "list", "array", "mean", "[1]", "half", "bfloat16", "numpy", "float32", "array1", "number"],
)
def test_kinds_of_values(kind, precision):
    assert logged(lambda o, t: kind(right(o, t)), precision=precision) == {
        "name": right(OUTPUTS, TARGETS).float().mean()
    }


@pytest.mark.parametrize("value, mean", [(True, 1.0), (3, 3.0), (np.int64(2), 2.0), (np.bool_(False), 0.0)])
def test_plain_values(value, mean):
    assert logged(lambda output, target: value) == {"name": mean}


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_metric_is_computed_in_float32(precision):
    def norm(output, target):
        assert (output @ output.T).dtype == torch.float32  # autocast would make it bfloat16
        return np.linalg.norm(output.numpy(), axis=1)  # NumPy has no bfloat16

    expected = OUTPUTS.to(precision).float().norm(dim=1).mean().item()
    assert logged(norm, precision=precision) == {"name": pytest.approx(expected, rel=1e-7)}


@pytest.mark.parametrize(
    "value, names",
    [
        (lambda o, t: o.mean(0), ["name_0", "name_1", "name_2"]),  # [C]
        (lambda o, t: o, ["name_0", "name_1", "name_2"]),  # [B, C]
        (lambda o, t: o.mean(0).numpy(), ["name_0", "name_1", "name_2"]),
        (lambda o, t: {"low": o[:, 0], "high": o[:, 1:].mean(0)}, ["name_low", "name_high_0", "name_high_1"]),
        (lambda o, t: (o[:, 0], o[:, 1].mean(), [o[:, 2]]), ["name_0", "name_1", "name_2_0"]),
    ],
)
def test_vectors_and_mappings_by_element(value, names):
    assert logged(value) == dict(zip(names, OUTPUTS.mean(0).tolist(), strict=True))


def test_a_value_per_class_stays_one_in_a_batch_of_as_many():
    metrics, sums = Metrics([lambda o, t: o.mean(0)], CPU, ["name"]), Sums()
    for batch in (OUTPUTS, OUTPUTS[:3]):
        for name, value in metrics(batch, TARGETS[: len(batch)]).items():
            sums.add(name, value, len(batch))
    expected = (OUTPUTS.sum(0) + OUTPUTS[:3].sum(0)) / 7
    assert sums.means() == {f"name_{i}": pytest.approx(mean) for i, mean in enumerate(expected.tolist())}


class Computing:
    """A metric object that computes whatever it is given."""

    def __init__(self, result):
        self.result = result

    def reset(self): ...

    def update(self, output, target):
        assert output.dtype == torch.float32

    def compute(self):
        return self.result


@pytest.mark.parametrize(
    "result, values",
    [
        (torch.tensor(0.5), {"name": 0.5}),
        (torch.tensor([0.5]), {"name": 0.5}),
        (0.5, {"name": 0.5}),
        (np.float64(0.5), {"name": 0.5}),
        (np.array([0.5, 1.0]), {"name_0": 0.5, "name_1": 1.0}),
        ([0.5, 1], {"name_0": 0.5, "name_1": 1.0}),
        (torch.tensor([0.5, 1.0], dtype=torch.float16), {"name_0": 0.5, "name_1": 1.0}),
        (torch.tensor([[1], [2]]), {"name_0": 1.0, "name_1": 2.0}),
        ({"all": torch.tensor(0.5), "of": np.array([1, 0])}, {"name_all": 0.5, "name_of_0": 1.0, "name_of_1": 0.0}),
        ((torch.tensor([1.0, 2.0]), True), {"name_0_0": 1.0, "name_0_1": 2.0, "name_1": 1.0}),
    ],
)  # fmt: skip
def test_what_an_object_computes(result, values):
    metrics = Metrics([Computing(result)], CPU, ["name"])
    with metrics.evaluating():
        metrics(OUTPUTS.bfloat16(), TARGETS)
    assert metrics.compute() == values
    assert {type(value) for value in metrics.compute().values()} == {float}


def test_metrics_of_a_model_with_several_outputs():
    metrics = Metrics([right], CPU, ["name"])
    assert metrics({"logits": OUTPUTS, "hidden": TARGETS}, TARGETS)["name"].tolist() == right(OUTPUTS, TARGETS).tolist()
    assert metrics((OUTPUTS, TARGETS), TARGETS)["name"].tolist() == right(OUTPUTS, TARGETS).tolist()


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


def test_the_name_in_the_config_is_that_in_the_log(tiny):
    """Two of one kind have names; `monitor` uses the same."""
    keys = ["metrics=[{type: top_k_acc, name: top1, args: {k: 1}}, {type: top_k_acc, name: top10, args: {k: 10}}]"]
    done = tiny.train(*keys, "trainer.monitor=max val_top1")
    assert {point["top10"] for point in tiny.points("train")} == {1.0}
    assert done.monitor.best == max(point["top1"] for point in tiny.points("valid")) < 1


def test_arguments_of_a_metric(tiny):
    done = tiny.train("metrics=[{type: top_k_acc, args: {k: 10}}]")
    assert {point["top_k_acc"] for point in tiny.points("train")} == {1.0}
    assert done.evaluate(done.valid_data_loader)["top_k_acc"] == 1.0


@pytest.mark.parametrize("targets", [{"a": torch.zeros(5), "b": torch.zeros(5)}, (torch.zeros(5), torch.zeros(5))])
@pytest.mark.parametrize("outputs", [torch.zeros(5, 2), {"a": torch.zeros(5, 2), "b": torch.zeros(5)}])
def test_a_value_per_sample_of_several_targets(targets, outputs):
    """The batch has five samples, not two."""
    values = {"one": lambda o, t: torch.ones(5), "two": lambda o, t: {"x": torch.ones(5), "y": torch.ones(3)}}
    found = Metrics(list(values.values()), torch.device("cpu"), list(values))(outputs, targets)
    assert list(found) == ["one", "two_x", "two_y_0", "two_y_1", "two_y_2"]
