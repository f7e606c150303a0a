"""The U-Net for any size, and the mean intersection over union: exact over batches and ranks."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model.segmentation import MeanIoU, UNet
from trainer.engine import setup
from utils.process import group

torch.manual_seed(0)
TARGETS = torch.randint(0, 4, (12, 9, 7))
SCORES = torch.randn(12, 5, 9, 7) + torch.nn.functional.one_hot(TARGETS, 5).permute(0, 3, 1, 2)
TARGETS[:, :2] = 255


def by_hand() -> float:
    """Class by class, over all pixels at once. The outputs have a class 4, the targets have not: it counts, as 0."""
    predicted, kept = SCORES.argmax(1), TARGETS != 255
    ious = []
    for c in range(5):
        p, t = (predicted == c) & kept, (c == TARGETS) & kept
        ious.append((p & t).sum().item() / (p | t).sum().item())
    return sum(ious) / 5


@pytest.mark.parametrize("parts", [[12], [1, 4, 7]])
def test_mean_iou_is_over_all_pixels(parts: list[int]) -> None:
    metric = MeanIoU(num_classes=5)
    for _ in range(2):  # reset forgets what was before
        metric.reset()
        for scores, targets in zip(SCORES.split(parts), TARGETS.split(parts), strict=True):
            metric.update(scores, targets)
        assert metric.compute().item() == pytest.approx(by_hand(), abs=1e-12)


def test_any_label_can_be_ignored() -> None:
    metric = MeanIoU(num_classes=2, ignore_index=1)
    metric.update(torch.tensor([[[[5.0, 0.0, 0.0]], [[0.0, 5.0, 5.0]]]]), torch.tensor([[[0, 0, 1]]]))
    assert metric.compute().item() == 0.25  # 1 of 2 pixels of class 0, and none of class 1


def test_a_class_that_never_appears_does_not_count() -> None:
    metric = MeanIoU(num_classes=3, per_class=True)
    metric.update(torch.eye(3)[[0, 1, 1, 0]].T[None, :, None], torch.tensor([[[0, 1, 0, 255]]]))
    values = metric.compute()
    assert {name: round(float(value), 6) for name, value in values.items() if name != "2"} == {
        "mean": 0.5,
        "0": 0.5,
        "1": 0.5,
    }
    assert values["2"].isnan()
    metric.reset()
    assert metric.compute()["mean"].isnan()


def of_rank() -> float:
    with setup.processes(0):
        metric, part = MeanIoU(num_classes=5), slice(group.rank(), None, group.world_size())
        metric.update(SCORES[part], TARGETS[part])
        return metric.compute().item()


@pytest.mark.slow
def test_ranks_add_up_to_the_same_number(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.trainer.parallel.ranks import on_ranks

    assert on_ranks(2, of_rank) == [pytest.approx(by_hand(), abs=1e-12)] * 2


@pytest.mark.parametrize("height, width", [(32, 32), (33, 50), (7, 5)])
def test_unet_gives_scores_for_each_pixel(height: int, width: int) -> None:
    model = UNet(in_channels=2, num_classes=5, widths=(4, 8, 12))
    images = torch.randn(2, 2, height, width, requires_grad=True)
    scores: Tensor = model(images)
    assert scores.shape == (2, 5, height, width)
    scores[:, :, height // 2, width // 2].sum().backward()
    assert images.grad is not None
    assert images.grad[:, :, height // 2, width // 2].abs().sum() > 0
    assert all(p.grad is not None for p in model.parameters())


def test_it_is_small() -> None:
    text = Path(__file__).parents[2].joinpath("model/segmentation.py").read_text()
    assert len(text.splitlines()) < 120


def test_ignored_pixels_weigh_nothing() -> None:
    """Two micro-batches with different numbers of ignored pixels have the mean of one batch; 255 is no class."""
    import functools

    from model.loss import cross_entropy
    from trainer.engine.loss import Loss

    scores, targets = SCORES[:2, :4], TARGETS[:2].clone()
    targets[0, :6] = 255
    for criterion in (
        torch.nn.CrossEntropyLoss(ignore_index=255),
        functools.partial(cross_entropy, ignore_index=255),
    ):
        loss: Any = Loss(criterion, torch.device("cpu"), num_classes=4)
        whole = loss(scores, targets).item()
        weights = [float(loss.weight(targets[i : i + 1])) for i in (0, 1)]
        parts = [loss(scores[i : i + 1], targets[i : i + 1]).item() for i in (0, 1)]
        assert weights == [21, 49]
        mean = sum(w * part for w, part in zip(weights, parts, strict=True)) / sum(weights)
        assert mean == pytest.approx(whole, rel=1e-6)
