"""A small U-Net, and the mean intersection over union of all pixels."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.process import group


class UNet(nn.Module):
    """[B, in_channels, H, W] -> logits [B, num_classes, H, W], for any H and W (arXiv:1505.04597, with batch norm).

    widths: channels at the full resolution, at half of it, a quarter, ...
    """

    def __init__(self, in_channels: int = 3, num_classes: int = 2, widths: tuple[int, ...] = (32, 64, 128, 256)):
        super().__init__()
        sizes = zip((in_channels, *widths[:-1]), widths, strict=True)
        self.down = nn.ModuleList(_block(before, after) for before, after in sizes)
        finer, coarser = widths[-2::-1], widths[:0:-1]
        self.up = nn.ModuleList(_block(skip + below, skip) for skip, below in zip(finer, coarser, strict=True))
        self.classifier = nn.Conv2d(widths[0], num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for i, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2, ceil_mode=True) if i else x)
            skips.append(x)
        skips.pop()
        for block in self.up:
            skip = skips.pop()
            x = F.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=False)
            x = block(torch.cat((skip, x), dim=1))
        return self.classifier(x)


def _block(in_channels: int, out_channels: int) -> nn.Sequential:
    """Two convolutions, each with batch norm and ReLU."""
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        conv = nn.Conv2d(channels, out_channels, 3, padding=1, bias=False)
        layers += [conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class MeanIoU:
    """A metric: intersection over union of each class, over all pixels of an evaluation and all ranks; their mean.

    output: scores [B, C, H, W]; target: class numbers [B, H, W], `ignore_index` where a pixel does not count. A class
    that appears neither in the outputs nor in the targets has no value and does not count.
    per_class: a value for each class too.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255, per_class: bool = False):
        self.num_classes, self.ignore_index, self.per_class = num_classes, ignore_index, per_class
        self.reset()

    def reset(self) -> None:
        self.confusion = torch.zeros(self.num_classes**2, dtype=torch.int64)  # [target x prediction] -> pixels

    def update(self, output: Tensor, target: Tensor) -> None:
        n = self.num_classes
        pairs = target * n + output.argmax(dim=1)
        pairs = torch.where(target == self.ignore_index, n**2, pairs)  # not pairs[kept], for which the host would wait
        self.confusion = self.confusion.to(pairs.device) + torch.bincount(pairs.flatten(), minlength=n**2 + 1)[: n**2]

    def sync(self) -> Tensor:
        """The pixels of all ranks, float64 [target, prediction]. Every rank must call it."""
        summed = group.sum_over_ranks(self.confusion.tolist())
        return torch.tensor(summed, dtype=torch.float64).view(self.num_classes, self.num_classes)

    def compute(self) -> Any:
        """The mean, NaN if there were no pixels; with per_class, {"mean": mean, 0: value, 1: value, ...}."""
        confusion = self.sync()
        both = confusion.diag()
        iou = both / (confusion.sum(dim=0) + confusion.sum(dim=1) - both)  # 0/0, NaN, for a class that never appears
        if not self.per_class:
            return iou.nanmean()
        return {"mean": iou.nanmean()} | {str(i): value for i, value in enumerate(iou)}
