"""Models for images."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _conv(in_channels: int, out_channels: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution and batch norm."""
    conv = nn.Conv2d(in_channels, out_channels, size, stride, padding=size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels))


class ConvNet(nn.Module):
    """A plain, fast network for small images: [B, in_channels, H, W] -> logits [B, num_classes].

    widths: channels of each stage. A stage is a convolution, max pooling to half the resolution, and `depth` - 1 more
    convolutions. Global average pooling follows the last stage.
    """

    def __init__(
        self,
        in_channels: int = 1,
        num_classes: int = 10,
        widths: tuple[int, ...] = (32, 64, 128),
        depth: int = 2,
        dropout: float = 0.0,
    ):
        super().__init__()
        layers: list[nn.Module] = []
        for width in widths:
            conv = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
            # Pooling first leaves a quarter of the pixels to batch norm and ReLU: half the time of a step on the CPU
            layers += [conv, nn.MaxPool2d(2), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            for _ in range(depth - 1):
                layers += [_conv(width, width), nn.ReLU(inplace=True)]
            in_channels = width
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(in_channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.dropout(self.features(x).mean(dim=(2, 3))))


class _ResidualBlock(nn.Module):
    """Two convolutions and a shortcut (arXiv:1512.03385)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.conv1 = _conv(in_channels, out_channels, stride=stride)
        self.conv2 = _conv(out_channels, out_channels)
        same = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if same else _conv(in_channels, out_channels, size=1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x) + self.conv2(F.relu(self.conv1(x))))


class SmallResNet(nn.Module):
    """A ResNet-18 for small images (no pooling in the stem): [B, in_channels, H, W] -> logits [B, num_classes]."""

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 10,
        blocks: tuple[int, ...] = (2, 2, 2, 2),
        width: int = 64,
    ):
        super().__init__()
        self.stem = _conv(in_channels, width)
        stages = []
        channels = width
        for stage, count in enumerate(blocks):
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                stages.append(_ResidualBlock(channels, width * 2**stage, stride))
                channels = width * 2**stage
        self.stages = nn.Sequential(*stages)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.stages(F.relu(self.stem(x))).mean(dim=(2, 3)))


class ViT(nn.Module):
    """A small vision transformer (arXiv:2010.11929): [B, in_channels, H, W] -> logits [B, num_classes].

    The image is cut into squares of `patch` pixels, which must divide `size`; each becomes a token of `width` numbers,
    with a learned position. The mean of all tokens is classified, as in arXiv:2205.01580.
    """

    def __init__(
        self,
        size: int = 28,
        in_channels: int = 1,
        num_classes: int = 10,
        patch: int = 4,
        width: int = 64,
        depth: int = 6,
        heads: int = 4,
        dropout: float = 0.0,
    ):
        super().__init__()
        if size % patch or width % heads:
            raise ValueError(f"size {size} must be a multiple of patch {patch}, and width {width} of heads {heads}")
        self.patches = nn.Conv2d(in_channels, width, patch, stride=patch)
        self.positions = nn.Parameter(0.02 * torch.randn(1, (size // patch) ** 2, width))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads, dropout) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)  # [B, tokens, width]
        x = self.blocks(self.dropout(x + self.positions))
        return self.classifier(self.norm(x).mean(dim=1))


class TransformerBlock(nn.Module):
    """Every token attends to all, then a two-layer network; each is added to its input: [B, T, width]"""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.p = heads, dropout
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)  # [B, heads, T, width / heads]
            for part in self.qkv(self.norm1(x)).chunk(3, dim=2)
        )
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=self.p if self.training else 0.0)
        x = x + self.dropout(self.out(y.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.mlp(self.norm2(x)))
