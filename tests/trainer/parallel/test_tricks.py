"""Training tricks, losses and metric objects: accumulation and ranks agree with one process on whole batches."""

import importlib.util
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from data_loader import BaseDataLoader
from tests.trainer.parallel.ranks import on_ranks, trained
from trainer.trainer import Trainer

pytestmark = pytest.mark.slow
MLP = "arch={type: MLP, args: {in_features: 64, hidden: [16]}}"
TRICKS: dict[str, list[str]] = {
    "EMA": ["callbacks=[EMA]"],
    "SWA": ["callbacks=[{type: SWA, args: {start: 2, every: 2}}]"],
    "unfreeze": ["callbacks=[{type: Freeze, args: {freeze: ['layers.0'], until_step: 4}}]"],
    "groups": [
        "optimizer={type: AdamW, args: {lr: 0.01}, groups: [{match: layers.2, lr: 0.1}], no_decay: true}",
        "trainer.clip_grad_norm=0.3",
    ],
    "plateau": [
        "lr_scheduler={type: ReduceLROnPlateau, args: {patience: 0, threshold: 0.5}}", "trainer.monitor=min val_loss",
    ],
    "keep_best": ["trainer.keep_best=2", "trainer.monitor=max val_accuracy"],
    "schedule-free": ["optimizer={type: AdamWScheduleFree, args: {lr: 0.01}}", "callbacks=[ScheduleFree]"],
}  # fmt: skip
SHARDS = [(1, 2), (1, 4), (2, 1), (2, 2), (2, 4)]  # ranks, accumulation


def run(world: int, accumulate: int, keys: list[str], folder: Any, function: Any = trained) -> dict[str, Any]:
    keys = [*keys, f"trainer.accumulate={accumulate}"]
    found = on_ranks(world, function, keys, folder)
    assert [type(result) for result in found] == [dict] * world, "\n".join(map(str, found))
    return found[0]


def assert_same(found: dict[str, Any], expected: dict[str, Any], atol: float) -> None:
    for name, value in expected["weights"].items():
        np.testing.assert_allclose(found["weights"][name], value, rtol=0, atol=atol)
    assert [point[:2] for point in found["points"]] == [point[:2] for point in expected["points"]]
    for (_, _, mine), (_, _, other) in zip(found["points"], expected["points"], strict=True):
        assert mine == pytest.approx(other, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("trick", TRICKS)
def test_a_trick_is_the_same_on_ranks_and_accumulated(trick: str, tmp_path: Any) -> None:
    if trick == "schedule-free":
        pytest.importorskip("schedulefree", reason="the extra `schedulefree`")
    keys = [MLP, "trainer.valid_steps=2", *TRICKS[trick]]
    expected = run(1, 1, keys, tmp_path / "one")
    for world, accumulate in SHARDS[:-1]:
        folder = tmp_path / f"{world}-{accumulate}"
        assert_same(run(world, accumulate, keys, folder), expected, 2e-6)
        names = [
            sorted(p.name for p in (f / "run/checkpoints").glob("*.pth")) for f in (folder, tmp_path / "one")
        ]  # fmt: skip
        assert names[0] == names[1]


@pytest.mark.parametrize(
    "callback", ["{type: SWA, args: {start: 2, every: 2, bn_steps: 2}}", "EMA"], ids=["SWA", "EMA"]
)  # fmt: skip
def test_averages_of_sharded_weights(callback: str, tmp_path: Any) -> None:
    """With batch norm: over two shards of each step, on one process or two."""
    keys = [f"callbacks=[{callback}]", "trainer.valid_steps=4"]
    two = run(2, 1, keys, tmp_path / "ddp")
    assert_same(run(2, 1, [*keys, "trainer.parallel=fsdp"], tmp_path / "fsdp"), two, 1e-6)


# -- losses -----------------------------------------------------------------------------------------------------------


class UnevenDataLoader(BaseDataLoader):
    """Of every second sample, which one of two ranks has, nearly no label counts: [5, 4] with labels [5]."""

    def __init__(self, batch_size: int = 16, **kwargs: Any) -> None:
        numbers = torch.Generator().manual_seed(0)
        x = torch.randn(96, 5, 4, generator=numbers)
        y = torch.randint(3, (96, 5), generator=numbers)
        y[1::2, 1:] = -100
        y[3::4] = -100
        super().__init__(TensorDataset(x, y), batch_size, **kwargs)
        self.facts = {"num_classes": 3, "class_counts": torch.bincount(y[y >= 0], minlength=3).tolist()}


LOSSES = [
    "{type: cross_entropy, args: {label_smoothing: 0.2}}",
    "{type: CrossEntropyLoss, args: {label_smoothing: 0.2}}",
    "{type: focal_loss, args: {gamma: 0.5}}",
    "{type: dice_loss, args: {ignore_index: -100}}",
    "{type: BalancedCrossEntropy, args: {label_smoothing: 0.1}}",
    "ClassWeighted",
    "NLLLoss",
]


def trained_unevenly(keys: list[str], folder: Any = None) -> dict[str, Any]:
    from data_loader import data_loaders

    vars(data_loaders)["UnevenDataLoader"] = UnevenDataLoader
    return trained(keys, folder)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_over_very_unequal_shards(loss: str) -> None:
    keys = [
        "arch=Tagger", f"loss={loss}", "metrics=[]", "optimizer={type: SGD, args: {lr: 0.3, momentum: 0.9}}",
        "data_loader={type: UnevenDataLoader, args: {batch_size: 16, shuffle: false, validation_split: 30}}",
        "trainer.log_steps=1", "trainer.valid_steps=2", "trainer.max_steps=4",
    ]  # fmt: skip
    expected = trained_unevenly([*keys])
    for world, accumulate in SHARDS:
        more = [*keys, f"trainer.accumulate={accumulate}"]
        found = [trained_unevenly(more)] if world == 1 else on_ranks(world, trained_unevenly, more)
        assert [type(result) for result in found] == [dict] * world, "\n".join(map(str, found))
        for name, value in expected["weights"].items():
            np.testing.assert_allclose(found[0]["weights"][name], value, rtol=0, atol=1e-6)
        for (_, _, mine), (_, _, other) in zip(found[0]["points"], expected["points"], strict=True):
            assert mine["loss"] == pytest.approx(other["loss"], rel=1e-6)


# -- metric objects ---------------------------------------------------------------------------------------------------

METRICS = [
    "{type: AUROC, args: {task: multiclass}}",
    "{type: F1Score, args: {task: multiclass, average: null}}",
    "{type: ConfusionMatrix, args: {task: multiclass}}",
    "{type: JaccardIndex, name: mIoU, args: {task: multiclass}}",
    "{type: AveragePrecision, args: {task: multiclass, average: null}}",
    "Several",
]


@pytest.mark.skipif(importlib.util.find_spec("torchmetrics") is None, reason="the extra `metrics`")
@pytest.mark.parametrize("metric", METRICS)
def test_a_metric_object(metric: str, tmp_path: Any) -> None:
    """On unequal shards of 97 samples."""
    keys = [MLP, f"metrics=[{metric}]", "trainer.valid_steps=4"]
    one, two = (run(n, 1, keys, tmp_path / str(n), trained_with_several) for n in (1, 2))
    mine, other = ([values for split, _, values in found["points"] if split == "valid"] for found in (one, two))
    assert len(mine) == 2
    assert mine == [pytest.approx(values, rel=1e-5, abs=1e-6) for values in other]


@pytest.mark.skipif(importlib.util.find_spec("torchmetrics") is None, reason="the extra `metrics`")
def test_ranks_without_samples(tmp_path: Any) -> None:
    """Three samples on four ranks."""
    keys = [MLP, "metrics=[Several]", "trainer.valid_steps=4", "data_loader.args.validation_split=3"]
    one, four = (run(n, 1, keys, tmp_path / str(n), trained_with_several) for n in (1, 4))
    mine, other = ([values for split, _, values in found["points"] if split == "valid"] for found in (one, four))
    assert mine == [pytest.approx(values, rel=1e-5, abs=1e-6, nan_ok=True) for values in other]


def trained_with_several(keys: list[str], folder: Any = None) -> dict[str, Any]:
    """With a MetricCollection, whose metrics share tensors, and one whose metric is in a wrapper with a list."""
    from torchmetrics import MetricCollection, classification
    from torchmetrics.wrappers import ClasswiseWrapper

    from model import metric

    class Several(MetricCollection):
        def __init__(self) -> None:
            kinds = ("Accuracy", "Precision", "ConfusionMatrix", "AUROC")
            found = {kind: getattr(classification, f"Multiclass{kind}")(10) for kind in kinds}
            wrapped = ClasswiseWrapper(classification.MulticlassAveragePrecision(10, average=None))
            super().__init__(found | {"classes": wrapped})

    vars(metric)["Several"] = Several
    return trained(keys, folder)


class BoxesDataLoader(BaseDataLoader):
    """Images [1, 8, 8], each with a dict of one to three boxes."""

    def __init__(self, batch_size: int = 8, training: bool = True, **kwargs: Any) -> None:
        numbers = torch.Generator().manual_seed(0)
        corners, sizes = torch.rand(2, 50, 3, 2, generator=numbers) * 20
        boxes = torch.cat([corners, corners + sizes + 1], dim=2)
        found = [{"boxes": b[: i % 3 + 1], "labels": torch.arange(i % 3 + 1) % 2} for i, b in enumerate(boxes)]
        samples: Any = list(zip(torch.rand(50, 1, 8, 8, generator=numbers), found, strict=True))
        super().__init__(samples, batch_size, collate_fn=lambda batch: tuple(zip(*batch, strict=True)), **kwargs)


class Detector(nn.Module):
    """As torchvision's: a dict of losses while it trains, a list of dicts else."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 4)

    def forward(self, images: Any, targets: Any = None) -> Any:
        boxes = [self.head(image.flatten()).exp().cumsum(0) * 4 for image in images]
        if self.training:
            losses = [(b - t["boxes"][0]).abs().mean() for b, t in zip(boxes, targets, strict=True)]
            return {"box": torch.stack(losses).mean(), "size": torch.stack(boxes).square().mean() * 1e-3}
        return [{"boxes": b[None], "scores": b[:1].sigmoid(), "labels": torch.zeros(1).long()} for b in boxes]


class DetectionTrainer(Trainer):
    """The model computes its losses itself, and has none in an evaluation."""

    def train_step(self, batches: Any) -> None:
        for images, targets in self.micro_batches(batches):
            losses = self.model(images, targets)
            self.backward(losses, weight=len(images))
            self.record(loss=losses, weight=len(images))
        self.update(self.optimizer)

    def eval_step(self, batch: Any) -> Any:
        images, targets = batch
        outputs = self.model(images)
        self.record(**self.metrics(outputs, targets))
        return outputs


def trained_detector(keys: list[str], folder: Any = None) -> dict[str, Any]:
    """With a metric like torchmetrics' MeanAveragePrecision: dicts in, a state of an entry per image, of which ranks
    have more or fewer, and a dict out, of numbers and a vector."""
    import torchmetrics

    from data_loader import data_loaders
    from model import metric, model
    from trainer import trainer as trainers

    class BoxDistance(torchmetrics.Metric):
        distances: Any
        images: Any

        def __init__(self) -> None:
            super().__init__()
            self.add_state("distances", default=[], dist_reduce_fx=None)
            self.add_state("images", default=torch.zeros(()), dist_reduce_fx="sum")

        def update(self, preds: Any, target: Any) -> None:
            for found, true in zip(preds, target, strict=True):
                self.distances.append((found["boxes"] - true["boxes"]).abs().mean(dim=1))
                self.images += 1

        def compute(self) -> dict[str, Any]:
            every = torch.cat(self.distances)
            quartiles = every.quantile(torch.tensor([0.25, 0.5, 0.75]))
            return {"mean": every.mean(), "quartiles": quartiles, "images": self.images}

    vars(data_loaders)["BoxesDataLoader"] = BoxesDataLoader
    vars(model)["Detector"], vars(trainers)["DetectionTrainer"] = Detector, DetectionTrainer
    vars(metric)["BoxDistance"] = BoxDistance
    return trained(keys, folder)


@pytest.mark.skipif(importlib.util.find_spec("torchmetrics") is None, reason="the extra `metrics`")
def test_detection(tmp_path: Any) -> None:
    keys = ["arch=Detector", "data_loader={type: BoxesDataLoader, args: {batch_size: 8, validation_split: 11}}"]
    keys += ["metrics=[BoxDistance]", "loss=MSELoss", "trainer.type=DetectionTrainer", "optimizer.args.lr=0.001"]
    keys += ["trainer.monitor=min val_BoxDistance_mean", "trainer.log_steps=1", "trainer.valid_steps=4"]
    one = run(1, 1, keys, tmp_path / "one", trained_detector)
    points = [values for split, _, values in one["points"] if split == "valid"]
    names = ["BoxDistance_mean", *(f"BoxDistance_quartiles_{i}" for i in range(3)), "BoxDistance_images"]
    assert [list(values) for values in points] == [names] * 2
    assert points[0]["BoxDistance_images"] == 11
    assert one["points"][0][2].keys() >= {"loss", "box", "size"}
    assert_same(run(2, 1, keys, tmp_path / "two", trained_detector), one, 1e-6)
    assert (tmp_path / "two/run/checkpoints/model_best.pth").exists()
