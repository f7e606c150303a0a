"""A grid of images for TensorBoard. (torchvision has one too, but takes seconds to import.)"""

from collections.abc import Sequence

import torch
from torch import Tensor

PAD = 2  # pixels
Normalization = tuple[Sequence[float], Sequence[float]]  # mean and std, of values 0..1


def image_grid(images: Tensor, columns: int = 8, normalization: Normalization | None = None) -> Tensor:
    """[B, C, H, W] -> one picture [C, H', W'], values 0..1.

    normalization: the mean and std per channel that the images were normalized by; it is undone. None: scaled by the
    smallest and largest value of all images.
    """
    images = images.detach().float().cpu()
    if normalization is not None and len(normalization[0]) in (1, images.shape[1]):
        mean, std = (torch.tensor(list(values)).view(1, -1, 1, 1) for values in normalization)
        images = (images * std + mean).clamp(0, 1)
    else:
        low, high = images.min(), images.max()
        images = (images - low) / (high - low).clamp(min=1e-8)
    b, c, h, w = images.shape
    columns = min(columns, b)
    rows = -(-b // columns)
    grid = torch.ones(c, rows * (h + PAD) + PAD, columns * (w + PAD) + PAD)
    for i, image in enumerate(images):
        y, x = PAD + i // columns * (h + PAD), PAD + i % columns * (w + PAD)
        grid[:, y : y + h, x : x + w] = image
    return grid


def is_images(inputs: object) -> bool:
    """Whether it can be drawn: a tensor [B, C, H, W] with 1 or 3 channels."""
    return isinstance(inputs, Tensor) and inputs.dim() == 4 and inputs.shape[1] in (1, 3)
