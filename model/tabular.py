"""Models for tables."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class TabularMLP(nn.Module):
    """Numbers and embedded categories through fully connected layers: [B, F] -> logits [B, num_classes]; without
    num_classes, a number for each row, [B].

    The inputs are `num_numbers` numbers, then an index for each category: those of TableDataLoader, whose facts fill
    the first five parameters. Index 0 is a category that is unknown: its embedding is zero.
    category_sizes: how many values each category has, without the unknown ones.
    target_mean, target_std: of the numbers to predict. The layers predict standardized ones.
    """

    def __init__(
        self,
        num_numbers: int,
        category_sizes: Sequence[int] = (),
        num_classes: int | None = None,
        target_mean: float = 0.0,
        target_std: float = 1.0,
        hidden: tuple[int, ...] = (64, 64),
        dropout: float = 0.0,
    ):
        super().__init__()
        self.num_numbers, self.num_classes = num_numbers, num_classes
        self.target_mean, self.target_std = target_mean, target_std
        embeddings = [nn.Embedding(size + 1, min(50, size // 2 + 1), padding_idx=0) for size in category_sizes]
        self.embeddings = nn.ModuleList(embeddings)
        width = num_numbers + sum(embedding.embedding_dim for embedding in embeddings)
        layers: list[nn.Module] = []
        for out in hidden:
            layers += [nn.Linear(width, out), nn.ReLU(), nn.Dropout(dropout)]
            width = out
        self.layers = nn.Sequential(*layers, nn.Linear(width, num_classes or 1))

    def forward(self, x: Tensor) -> Tensor:
        numbers, indices = x[:, : self.num_numbers], x[:, self.num_numbers :].long()
        embedded = [embedding(index) for embedding, index in zip(self.embeddings, indices.unbind(1), strict=True)]
        output = self.layers(torch.cat([numbers, *embedded], dim=1))
        return output if self.num_classes else output[:, 0] * self.target_std + self.target_mean
