"""Other tasks than classification with the same step, losses, metrics and monitor: segmentation, several labels per
sample, regression, a label per token. Each learns, and is exact over accumulation."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import data_loader.data_loaders
import model.model
from tests.tiny import Tiny, tiny

__all__ = ["tiny"]


def draws(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


class Shapes(TensorDataset):
    """Which pixels are bright."""

    def __init__(self) -> None:
        x = draws(160, 1, 6, 6)
        super().__init__(x, (x[:, 0] > 0).long())


class Tags(TensorDataset):
    """Three labels of each sample, each present or not."""

    def __init__(self) -> None:
        x = draws(160, 5)
        super().__init__(x, (x[:, :3] > 0).float())


class Numbers(TensorDataset):
    def __init__(self) -> None:
        x = draws(160, 5)
        super().__init__(x, x[:, 0] - 2 * x[:, 1] + 3)


class Tokens(TensorDataset):
    """Is a token the same as the one before? Texts end with padding, whose label is -100."""

    def __init__(self) -> None:
        tokens = draws(160, 8).mul(2).round().abs().clamp(max=3).long() + 1
        same = (tokens == tokens.roll(1, dims=1)).long()
        ended = torch.arange(8) >= (torch.arange(160) % 6 + 3)[:, None]
        same[:, 0] = -100
        super().__init__(tokens.masked_fill(ended, 0), same.masked_fill(ended, -100))


class Linear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).squeeze(1)


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.mix = nn.Embedding(5, 16), nn.Conv1d(16, 32, 3, padding=1)
        self.head = nn.Conv1d(32, 2, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.mix(self.tokens(tokens).transpose(1, 2)).relu())  # [B, 2, T]


TASKS: dict[str, tuple[list[str], str, float]] = {  # keys, what is monitored, what it reaches
    "segmentation": (
        ["data_loader.type=Shapes", "arch={type: UNet, args: {in_channels: 1, num_classes: 2, widths: [8, 8]}}"]
        + ["loss=cross_entropy", "metrics=[{type: MeanIoU, args: {num_classes: 2}}]", "optimizer.args.lr=0.02"],
        "max val_MeanIoU", 0.9,
    ),
    "dice": (
        ["data_loader.type=Shapes", "arch={type: UNet, args: {in_channels: 1, num_classes: 2, widths: [8, 8]}}"]
        + ["loss=dice_loss", "metrics=[{type: MeanIoU, args: {num_classes: 2}}]", "optimizer.args.lr=0.02"],
        "max val_MeanIoU", 0.9,
    ),
    "multi-label": (
        ["data_loader.type=Tags", "arch={type: MLP, args: {in_features: 5, hidden: [], num_classes: 3}}"]
        + ["loss=BCEWithLogitsLoss", "metrics=[{type: F1Score, args: {task: multilabel, num_labels: 3}}]"],
        "max val_F1Score", 0.9,
    ),
    "regression": (
        ["data_loader.type=Numbers", "arch={type: Linear, args: {in_features: 5, out_features: 1}}", "loss=MSELoss"]
        + ["metrics=[{type: MeanAbsoluteError, name: MAE}, R2Score]", "optimizer.args.lr=0.1"],
        "max val_R2Score", 0.99,
    ),
    "sequence tagging": (
        ["data_loader.type=Tokens", "arch=Tagger", "loss=cross_entropy", "optimizer.args.lr=0.02"]
        + ["metrics=[{type: Accuracy, args: {task: multiclass, num_classes: 2, ignore_index: -100}}]"],
        "max val_Accuracy", 0.9,
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for part in (Shapes, Tags, Numbers, Tokens):
        monkeypatch.setattr(data_loader.data_loaders, part.__name__, part, raising=False)
    for net in (Linear, Tagger):
        monkeypatch.setattr(model.model, net.__name__, net, raising=False)


@pytest.mark.parametrize(
    "task", [pytest.param(task, marks=pytest.mark.slow) if task == "segmentation" else task for task in TASKS]
)
def test_it_learns_and_accumulates_exactly(tiny: Tiny, task: str) -> None:
    pytest.importorskip("torchmetrics", reason="the extra `metrics`")
    keys, monitor, reached = TASKS[task]
    common = ["optimizer={type: Adam, args: {lr: 0.05}}", "data_loader={args: {batch_size: 20, validation_split: 40}}"]
    common += ["trainer.epochs=15", f"trainer.monitor={monitor}", "trainer.save_period=20", *keys]
    done = tiny.train(*common)
    assert done.monitor.best > reached
    point = tiny.points("valid")[-1]
    best = tiny.load("model_best.pth")["values"][monitor.split()[1]]
    assert best == done.monitor.best
    inputs, targets = (torch.cat(parts) for parts in zip(*done.valid_data_loader, strict=True))
    with torch.no_grad():
        loss: Any = done.criterion(done.model.eval()(inputs), targets)
    assert point["loss"] == pytest.approx(loss.item(), rel=1e-4)  # over all samples, pixels or tokens at once
    short = [*common, "trainer.epochs=1"]
    if task in ("segmentation", "dice"):  # batch norm sees other batches
        return
    tiny.train(*short, run="one")
    tiny.train(*short, "trainer.accumulate=4", run="four")
    assert tiny.points("train", "four")[-1]["loss"] == pytest.approx(tiny.points("train", "one")[-1]["loss"], rel=1e-4)
