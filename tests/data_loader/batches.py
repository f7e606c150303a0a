"""Reads batches of a loader."""

import torch

from data_loader import BaseDataLoader


def whole(loader: BaseDataLoader) -> tuple[torch.Tensor, torch.Tensor]:
    """The data of one pass, concatenated."""
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


def first(loader: BaseDataLoader, step: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """The first micro-batch of `step`."""
    batches = loader.iter_steps(step)
    batch = next(batches)
    batches.close()
    return batch.data
