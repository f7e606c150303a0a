"""Your models: any `nn.Module`, named in a config under `arch`, with the arguments of its `__init__` as `args`.

An argument named as a fact of the data, such as `num_classes`, is filled in from the data loader.
"""

import math  # noqa: F401 (for your code)

import torch  # noqa: F401 (for your code)
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
    """Fully connected layers: [B, ...] with `in_features` numbers per sample -> logits [B, num_classes]."""

    def __init__(self, in_features: int, hidden: tuple[int, ...] = (128,), num_classes: int = 10):
        super().__init__()
        layers: list[nn.Module] = []
        for width in hidden:
            layers += [nn.Linear(in_features, width), nn.ReLU()]
            in_features = width
        self.layers = nn.Sequential(*layers, nn.Linear(in_features, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.flatten(1))
