"""Augmentation: name these, those of torchvision.transforms.v2, or yours, in `transforms` of a data loader.

All randomness is a function of the sample's key (see `utils.seed`), not of its batch or worker.
One image: `transform(image [C, H, W]) -> image`, seeded with its key beforehand; draw from torch, NumPy or Python.
Whole batches, on any device: derive from `OfBatches`; false if it changes nothing.
"""

import math
import random

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from data_loader.engine.augmentation import OfBatches, sized
from data_loader.engine.images.decode import AnyImage, crop, scaled
from utils.errors import UsageError
from utils.seed import uniform


class RandomAffine(OfBatches):
    """Rotate, shift, scale and shear each image by random amounts; new pixels at the border are 0.

    rotate, shear: maximum angle in degrees, to either side. shift: maximum shift in pixels, in x and in y.
    scale: the maximum factor is `1 + scale`, the minimum its inverse.
    """

    def __init__(self, rotate: float = 0.0, shift: float = 0.0, scale: float = 0.0, shear: float = 0.0):
        self.rotate, self.shift, self.scale, self.shear = rotate, shift, scale, shear

    def __bool__(self) -> bool:
        return bool(self.rotate or self.shift or self.scale or self.shear)

    def batch(self, images: Tensor, keys: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        draw = 2 * uniform(keys, 5) - 1  # [-1, 1)
        angle = draw[:, 0] * self.rotate * math.pi / 180
        shear = torch.tan(draw[:, 1] * self.shear * math.pi / 180)
        zoom = (1 + self.scale) ** draw[:, 2]
        cos, sin = angle.cos() / zoom, angle.sin() / zoom
        theta = images.new_zeros(len(images), 2, 3, dtype=torch.float32)  # output position -> input position, [-1, 1]
        theta[:, 0, 0], theta[:, 0, 1] = cos, (shear * cos - sin) * height / width
        theta[:, 1, 0], theta[:, 1, 1] = sin * width / height, shear * sin + cos
        theta[:, 0, 2] = draw[:, 3] * self.shift * 2 / width
        theta[:, 1, 2] = draw[:, 4] * self.shift * 2 / height
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        return F.grid_sample(images.float(), grid, align_corners=False)


class RandomCropFlip(OfBatches):
    """Shift each image by up to `crop` pixels in x and in y, reflecting its edges. flip: mirror half of them."""

    def __init__(self, crop: int = 0, flip: bool = False):
        self.crop, self.flip = crop, flip

    def __bool__(self) -> bool:
        return bool(self.crop or self.flip)

    def batch(self, images: Tensor, keys: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        draw = uniform(keys, 3)
        steps = 2 * self.crop + 1
        shift = (draw[:, :2] * steps).long().clamp(max=steps - 1) - self.crop  # the product may round up to `steps`
        rows = mirror(torch.arange(height, device=images.device) + shift[:, :1], height)
        columns = mirror(torch.arange(width, device=images.device) + shift[:, 1:], width)
        if self.flip:
            columns = torch.where(draw[:, 2:] < 0.5, columns.flip(1), columns)
        batch = torch.arange(len(images), device=images.device)[:, None, None]
        cut = images[batch, :, rows[:, :, None], columns[:, None, :]]  # [B, H, W, C]
        return cut.permute(0, 3, 1, 2).contiguous()


def mirror(index: Tensor, size: int) -> Tensor:
    """Reflect indices outside 0 ... size - 1 back into it."""
    return size - 1 - (size - 1 - index.abs()).abs()


class RandomResizedCrop:
    """A random crop of at least `min_area` of the image, 3:4 to 4:3 in shape, resized to `size`; half are mirrored.

    Szegedy et al., Going Deeper with Convolutions, 2015; the same distribution as in torchvision.
    """

    decodes = True  # it takes an image file that is not decoded yet (data_loader/engine/images/decode.py)

    def __init__(self, size: int, min_area: float = 0.08):
        if size < 1 or not 0 < min_area <= 1:
            raise UsageError(
                f"RandomResizedCrop: size is {size} and min_area is {min_area}; give a size of 1 or more, and a "
                f"min_area of more than 0, up to 1"
            )
        self.size, self.min_area = size, min_area

    def __call__(self, image: Image.Image | AnyImage | Tensor) -> Tensor:
        whole = sized(image)
        part = crop(whole, self._box(*whole.size), self.size, self.size)
        return part.flip(2) if random.random() < 0.5 else part

    def _box(self, width: int, height: int) -> tuple[int, int, int, int]:
        """left, top, right, bottom"""
        for _ in range(10):
            area = width * height * random.uniform(self.min_area, 1)
            shape = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
            w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
            if 0 < w <= width and 0 < h <= height:
                left, top = random.randint(0, width - w), random.randint(0, height - h)
                return left, top, left + w, top + h
        # No such crop fits, because the image is too long: take its middle
        w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
        left, top = (width - w) // 2, (height - h) // 2
        return left, top, left + w, top + h


class CenterCrop:
    """Resize the short side of the image to `size / 0.875`, then crop its center, size x size."""

    decodes = True

    def __init__(self, size: int):
        if size < 1:
            raise UsageError(f"CenterCrop: size is {size}; give 1 or more")
        self.size = size

    def __call__(self, image: Image.Image | AnyImage | Tensor) -> Tensor:
        whole = sized(image)
        width, height = scaled(whole.size, round(self.size / 0.875))
        resized = crop(whole, (0, 0, *whole.size), height, width)
        top, left = round((height - self.size) / 2), round((width - self.size) / 2)
        return resized[:, top : top + self.size, left : left + self.size]
