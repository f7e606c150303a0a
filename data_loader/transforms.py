"""Augmentations of whole batches on the CPU: `transform(images, keys) -> images`.

`images` are [B, C, H, W]; `keys` [B] are those of the samples (see `utils.seed`). All that is random comes from the
keys, so what happens to a sample depends neither on its batch nor on the number of workers.
"""

from math import pi

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.seed import uniform


class RandomAffine:
    """Turn, shift, scale and shear each image by random amounts; what comes in from outside is 0.

    rotate, shear: up to so many degrees to either side; shift: up to so many pixels in x and in y;
    scale: by a factor of up to `1 + scale`, or down to its inverse.
    """

    def __init__(self, rotate: float = 0.0, shift: float = 0.0, scale: float = 0.0, shear: float = 0.0):
        self.rotate, self.shift, self.scale, self.shear = rotate, shift, scale, shear

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        if not (self.rotate or self.shift or self.scale or self.shear):
            return images
        height, width = images.shape[-2:]
        draw = 2 * uniform(keys, 5) - 1  # [-1, 1)
        angle = draw[:, 0] * self.rotate * pi / 180
        shear = torch.tan(draw[:, 1] * self.shear * pi / 180)
        zoom = (1 + self.scale) ** draw[:, 2]
        cos, sin = angle.cos() / zoom, angle.sin() / zoom
        theta = images.new_zeros(len(images), 2, 3, dtype=torch.float32)  # output position -> input position, [-1, 1]
        theta[:, 0, 0], theta[:, 0, 1] = cos, (shear * cos - sin) * height / width
        theta[:, 1, 0], theta[:, 1, 1] = sin * width / height, shear * sin + cos
        theta[:, 0, 2] = draw[:, 3] * self.shift * 2 / width
        theta[:, 1, 2] = draw[:, 4] * self.shift * 2 / height
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        return F.grid_sample(images.float(), grid, align_corners=False)


class RandomCropFlip:
    """Shift each image by up to `crop` pixels in x and in y, mirroring its edges; `flip`: mirror one in two."""

    def __init__(self, crop: int = 0, flip: bool = False):
        self.crop, self.flip = crop, flip

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        draw = uniform(keys, 3)
        steps = 2 * self.crop + 1
        shift = (draw[:, :2] * steps).long().clamp(max=steps - 1) - self.crop  # the product may round up to `steps`
        rows = mirror(torch.arange(height) + shift[:, :1], height)
        columns = mirror(torch.arange(width) + shift[:, 1:], width)
        if self.flip:
            columns = torch.where(draw[:, 2:] < 0.5, columns.flip(1), columns)
        batch = torch.arange(len(images))[:, None, None]
        return images[batch, :, rows[:, :, None], columns[:, None, :]].permute(
            0, 3, 1, 2
        )  # [B, H, W, C] -> [B, C, H, W]


def mirror(index: Tensor, size: int) -> Tensor:
    """Positions beside 0 ... size - 1, back into it by mirroring at the first and the last."""
    return size - 1 - (size - 1 - index.abs()).abs()
