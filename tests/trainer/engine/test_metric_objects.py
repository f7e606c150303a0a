"""torchmetrics by name, exact over batches and ranks; names by class; what is refused, and why."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import data_loader.data_loaders
import model.metric
from data_loader.data_loaders import DigitsDataLoader
from tests.tiny import Tiny, tiny
from tests.trainer.parallel.ranks import on_ranks, trained
from trainer.engine.metric_objects import MetricObjects
from trainer.engine.metrics import Metrics
from utils.errors import Stopped, UsageError

__all__ = ["tiny"]
OBJECTS = (
    "metrics=[accuracy, {type: AUROC, args: {task: multiclass}}, "
    "{type: F1Score, args: {task: multiclass, average: null}}, "
    "{type: ConfusionMatrix, name: confusion, args: {task: multiclass}}, "
    "{type: JaccardIndex, name: mIoU, args: {task: multiclass}}]"
)


class NamedDigitsDataLoader(DigitsDataLoader):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        names = "null eins zwei drei vier fünf sechs sieben acht number nine"
        self.facts = {**self.facts, "class_names": [*names.split()[:9], "number nine"]}


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(data_loader.data_loaders, "NamedDigitsDataLoader", NamedDigitsDataLoader, raising=False)
    return "data_loader={type: NamedDigitsDataLoader, args: {batch_size: 37, validation_split: 100}}"


def by_hand(trainer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    inputs, targets = (torch.cat(parts) for parts in zip(*trainer.valid_data_loader, strict=True))
    with torch.no_grad():
        return trainer.model.eval()(inputs).softmax(1), targets


def test_torchmetrics_by_name(tiny: Tiny, named: str, capsys: pytest.CaptureFixture[str]) -> None:
    """num_classes comes from the facts, as the names of the classes do."""
    functional = pytest.importorskip("torchmetrics.functional", reason="the extra `metrics`")
    keys = ["trainer.limit_batches=null", "trainer.monitor=max val_F1Score_number_nine", "trainer.epochs=1"]
    done = tiny.train(named, OBJECTS, *keys)
    (point,) = tiny.points("valid")
    probabilities, targets = by_hand(done)
    auroc = functional.auroc(probabilities, targets, task="multiclass", num_classes=10).item()
    f1 = functional.f1_score(probabilities, targets, task="multiclass", num_classes=10, average=None).tolist()
    assert point["AUROC"] == pytest.approx(auroc, rel=1e-6)
    names = [key for key in point if key.startswith("F1Score")]
    assert names[2:4] == ["F1Score_zwei", "F1Score_drei"]
    assert [point[name] for name in names] == pytest.approx(f1, rel=1e-6)
    assert done.monitor.best == pytest.approx(f1[9])
    confusion = np.zeros((10, 10))
    np.add.at(confusion, (targets.numpy(), probabilities.argmax(1).numpy()), 1)
    assert list(confusion.flatten()) == [value for key, value in point.items() if key.startswith("confusion")]
    assert point["confusion_zwei_drei"] == confusion[2, 3]
    overlap = np.diag(confusion) / (confusion.sum(0) + confusion.sum(1) - np.diag(confusion))
    assert point["mIoU"] == pytest.approx(np.nan_to_num(overlap).mean(), rel=1e-5)
    shown = capsys.readouterr().out
    assert "val_F1Score_zwei" in shown
    assert "confusion" not in shown  # 100 numbers
    assert tiny.points("train")[0].keys() == {"step", "epoch", "split", "loss", "accuracy", "lr"}


def evaluated(keys: list[str]) -> dict[str, float]:
    points = trained(keys)["points"]
    return next(values for split, _, values in points if split == "valid")


@pytest.mark.slow
def test_two_ranks_agree_with_one(tiny: Tiny) -> None:
    pytest.importorskip("torchmetrics", reason="the extra `metrics`")
    keys = [OBJECTS, "arch={type: MLP, args: {in_features: 64}}", "trainer.max_steps=4"]
    expected = evaluated(keys)
    for found in on_ranks(2, evaluated, keys):
        assert found == pytest.approx(expected, rel=1e-5)


class NoReset:
    def update(self, output: Any, target: Any) -> None: ...

    def compute(self) -> float:
        return 0.0


class Forgetful(NoReset):
    """reset() forgets `seen`."""

    def __init__(self, how: str) -> None:
        self.right = 0
        self.seen: Any = {"number": 0, "tensor": torch.zeros(()), "array": np.zeros(1), "list": []}[how]

    def reset(self) -> None:
        self.right = 0

    def update(self, output: Any, target: Any) -> None:
        self.right += int((output.argmax(1) == target).sum())
        self.seen = [*self.seen, 1] if isinstance(self.seen, list) else self.seen + len(target)


@pytest.mark.parametrize("how", ["number", "tensor", "array", "list"])
def test_one_that_is_not_reset_is_refused(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setattr(model.metric, "Forgetful", Forgetful, raising=False)
    with pytest.raises(Stopped, match=r"reset\(\) of Forgetful leaves seen at .* Set it in reset\(\)"):
        tiny.train(f"metrics=[{{type: Forgetful, args: {{how: {how}}}}}]")
    assert len(tiny.points("valid")) == 1


def test_one_without_reset_is_refused() -> None:
    with pytest.raises(UsageError, match="mine has update and compute, but no reset"):
        MetricObjects({"mine": NoReset()})


def test_one_that_is_not_combined_over_ranks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("utils.process.group.world_size", lambda: 2)
    with pytest.raises(UsageError, match="mine keeps a state that is not combined over processes; derive it from"):
        MetricObjects({"mine": Forgetful("number")})


def test_one_of_torchmetrics_that_does_not_fit(tiny: Tiny) -> None:
    """It is known from the first batch of training on, and is no traceback."""
    pytest.importorskip("torchmetrics", reason="the extra `metrics`")
    why = r"Accuracy failed for outputs \[\d+, 10\] float32, targets \[\d+\] int64: .* same shape"
    with pytest.raises(Stopped, match=why):
        tiny.train("metrics=[{type: Accuracy, args: {task: binary}}]")
    assert tiny.log().index("on a batch of training") < tiny.log().index("step  4/12")


def test_the_batch_that_is_tried_does_not_count() -> None:
    """Nor does what a metric draws for it."""
    torchmetrics = pytest.importorskip("torchmetrics", reason="the extra `metrics`")
    accuracy = torchmetrics.Accuracy(task="multiclass", num_classes=4)
    boot = torchmetrics.BootStrapper(torchmetrics.Accuracy(task="multiclass", num_classes=4))
    metrics = Metrics([accuracy, boot], torch.device("cpu"), ["accuracy", "boot"])
    before = torch.get_rng_state()
    metrics(torch.eye(4), torch.arange(4))
    assert torch.equal(torch.get_rng_state(), before)
    assert accuracy._update_count == 0
    with metrics.evaluating():
        metrics(torch.eye(4), torch.zeros(4, dtype=torch.long))
    assert metrics.compute()["accuracy"] == 0.25


@pytest.mark.parametrize("kind", ["MinMaxMetric", "MetricTracker"])
def test_one_that_keeps_earlier_results_is_refused(kind: str) -> None:
    torchmetrics = pytest.importorskip("torchmetrics", reason="the extra `metrics`")
    inner = torchmetrics.MeanSquaredError()
    with pytest.raises(UsageError, match=f"{kind} keeps results from one evaluation to the next"):
        MetricObjects({"mine": getattr(torchmetrics, kind)(inner)})


@pytest.mark.parametrize("value", [None, "good", {"a": None}])
def test_a_result_that_is_no_number(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, value: Any) -> None:
    monkeypatch.setattr(model.metric, "mine", lambda output, target: value, raising=False)
    with pytest.raises(UsageError, match=r"metrics: mine(_a)? is (None|'good'); a metric returns numbers and tensors"):
        tiny.train("metrics=[mine]")
    assert not (tiny.folder / "run").exists()


def test_names_of_classes_that_are_no_names() -> None:
    assert MetricObjects({}, ["a b", "c"]).labels(2) == ["a_b", "c"]
    assert MetricObjects({}, ["a b", "a_b"]).labels(2) == ["0", "1"]
    assert MetricObjects({}, ["a", "b"]).labels(3) == ["0", "1", "2"]


def test_early_stopping_by_a_value_of_a_named_validation_set(tiny: Tiny, tmp_path: Path) -> None:
    """An element of a metric object, on one of two sets, decides what is best and when to stop."""
    pytest.importorskip("torchmetrics", reason="the extra `metrics`")
    two = "valid_data_loader={a: DigitsDataLoader, b: {type: DigitsDataLoader, args: {batch_size: 99}}}"
    keys = [two, OBJECTS, "trainer.monitor=max val_b_F1Score_3", "trainer.early_stop=3", "trainer.epochs=9"]
    done = tiny.train(*keys, "optimizer.args.lr=0.0", "data_loader.args.validation_split=0")
    assert done.step == 4 * 6
    assert done.monitor.best == tiny.points("valid")[0]["b_F1Score_3"]
    assert tiny.load("model_best.pth")["step"] == 6
    assert "val_b_F1Score_3 has not improved in 3 validations" in tiny.log()
