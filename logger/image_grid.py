"""A grid of images for TensorBoard. (torchvision has one too, but takes seconds to import.)"""

import torch
from torch import Tensor

PAD = 2  # pixels


def image_grid(images: Tensor, columns: int = 8) -> Tensor:
    """[B, C, H, W] -> one picture [C, H', W'], scaled by the smallest and largest value of all images to 0..1."""
    images = images.detach().float().cpu()
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
