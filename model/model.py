"""The models of this project. Add yours: any `nn.Module`, named in a config's `arch`, with the args of its `__init__`.

Names that begin with _ are parts of models, not for configs.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class MnistModel(nn.Module):
    """The LeNet of victoresque/pytorch-template: [B, 1, 28, 28] -> log-probabilities [B, num_classes]."""

    def __init__(self, num_classes: int = 10):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 10, kernel_size=5)
        self.conv2 = nn.Conv2d(10, 20, kernel_size=5)
        self.conv2_drop = nn.Dropout2d()
        self.fc1 = nn.Linear(320, 50)
        self.fc2 = nn.Linear(50, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.max_pool2d(self.conv1(x), 2))  # [B, 10, 12, 12]
        x = F.relu(F.max_pool2d(self.conv2_drop(self.conv2(x)), 2))  # [B, 20, 4, 4]
        x = F.relu(self.fc1(x.flatten(1)))
        x = F.dropout(x, training=self.training)
        return F.log_softmax(self.fc2(x), dim=1)


class MLP(nn.Module):
    """Fully connected layers: [B, ...] with `in_features` numbers a sample -> logits [B, num_classes]."""

    def __init__(self, in_features: int, hidden: tuple[int, ...] = (128,), num_classes: int = 10):
        super().__init__()
        layers: list[nn.Module] = []
        for width in hidden:
            layers += [nn.Linear(in_features, width), nn.ReLU()]
            in_features = width
        self.layers = nn.Sequential(*layers, nn.Linear(in_features, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.flatten(1))


def _conv(in_channels: int, out_channels: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution and batch norm."""
    conv = nn.Conv2d(in_channels, out_channels, size, stride, padding=size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels))


class ConvNet(nn.Module):
    """A plain, fast net for small images: [B, in_channels, H, W] -> logits [B, num_classes].

    Each of `widths` is a stage of so many channels: a convolution, half the resolution, `depth` - 1 more convolutions.
    The mean over all positions follows the last.
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
            # Pooling first leaves batch norm and ReLU a quarter of the pixels: half the time of a step on the CPU
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
    """Two convolutions beside a shortcut (arXiv:1512.03385)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.conv1 = _conv(in_channels, out_channels, stride=stride)
        self.conv2 = _conv(out_channels, out_channels)
        same = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if same else _conv(in_channels, out_channels, size=1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x) + self.conv2(F.relu(self.conv1(x))))


class SmallResNet(nn.Module):
    """A ResNet (by default 18) for small images, without pooling: [B, in_channels, H, W] -> logits [B, num_classes]."""

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


class GAN(nn.Module):
    """A small DCGAN (arXiv:1511.06434) for 28 x 28 images in the units of `MnistDataLoader`.

    `generator`: noise [B, latent] -> images [B, 1, 28, 28]; `discriminator`: images -> logits [B], high for real ones.
    Calling the GAN generates.
    """

    def __init__(self, latent: int = 64, width: int = 32):
        super().__init__()
        self.latent = latent
        self.generator = nn.Sequential(
            nn.Linear(latent, 4 * width * 7 * 7, bias=False),
            nn.Unflatten(1, (4 * width, 7, 7)),
            nn.BatchNorm2d(4 * width),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(4 * width, 2 * width, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(2 * width, 1, 4, stride=2, padding=1),
            _MnistRange(),
        )
        self.discriminator = nn.Sequential(
            nn.Conv2d(1, 2 * width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(2 * width, 4 * width, 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(4 * width),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Flatten(),
            nn.Linear(4 * width * 7 * 7, 1),
            nn.Flatten(0),
        )

    def forward(self, noise: Tensor) -> Tensor:
        return self.generator(noise)


class _MnistRange(nn.Module):
    """Any number -> what a normalised MNIST pixel can be: (0 ... 1 - mean) / deviation."""

    def forward(self, x: Tensor) -> Tensor:
        return (x.sigmoid() - 0.1307) / 0.3081
