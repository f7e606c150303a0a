"""Models for audio and other signals."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class AudioCNN(nn.Module):
    """Spectrograms of any length: (features [B, 1, n_mels, T], numbers of frames [B]) -> logits [B, num_classes].

    widths: channels of each stage, which halves mels and frames. What follows the end of a clip is kept at zero, so
    that its result does not depend on the longer clips of its batch. For the same reason, each position is normalized
    by itself, over its channels, and the mean over time is over the clip's own frames.
    """

    def __init__(
        self,
        num_classes: int,
        n_mels: int = 64,
        widths: tuple[int, ...] = (32, 64, 128),
        dropout: float = 0.2,
    ):
        super().__init__()
        stages, channels = [], 1
        for width in widths:
            stages.append(_Stage(channels, width))
            channels, n_mels = width, -(-n_mels // 2)
        self.stages = nn.ModuleList(stages)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(channels * n_mels, num_classes)

    def forward(self, inputs: tuple[Tensor, Tensor]) -> Tensor:
        x, frames = inputs
        for stage in self.stages:
            frames = (frames + 1) // 2
            x = stage(x, frames)
        mean = x.sum(dim=3) / frames[:, None, None]  # [B, channels, mels]
        return self.classifier(self.dropout(mean.flatten(1)))


class CNN1d(nn.Module):
    """Signals of any length from `widths` and `strides`: [B, in_channels, T] -> logits [B, num_classes].

    Each stage is a convolution over `size` places in steps of its stride, with batch norm. The mean over time follows
    the last, as in the networks on raw audio of Dai et al., 2017 (arXiv:1610.00087).
    """

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 10,
        widths: tuple[int, ...] = (32, 64, 128),
        strides: tuple[int, ...] = (2, 2, 2),
        size: int = 7,
        dropout: float = 0.0,
    ):
        super().__init__()
        layers: list[nn.Module] = []
        for width, stride in zip(widths, strides, strict=True):
            conv = nn.Conv1d(in_channels, width, size, stride, padding=size // 2, bias=False)
            layers += [conv, nn.BatchNorm1d(width), nn.ReLU(inplace=True)]
            in_channels = width
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(in_channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.dropout(self.features(x).mean(dim=2)))


class _Stage(nn.Module):
    """Half the mels and frames, then a residual convolution."""

    def __init__(self, in_channels: int, width: int):
        super().__init__()
        self.down = nn.Conv2d(in_channels, width, 3, stride=2, padding=1)
        self.norm1 = nn.LayerNorm(width)
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x: Tensor, frames: Tensor) -> Tensor:
        x = self.down(x)
        valid = (torch.arange(x.shape[3], device=x.device) < frames[:, None])[:, None, None]  # [B, 1, 1, T]
        x = F.relu(_over_channels(self.norm1, x)) * valid
        return F.relu(x + _over_channels(self.norm2, self.conv(x))) * valid


def _over_channels(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """[B, C, H, W], normalized at each position: without cost in channels_last, where the channels are next to each
    other."""
    return norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
