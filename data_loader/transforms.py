"""Augmentation: name these, those of torchvision.transforms.v2, or yours, in `transforms` of a data loader.

All randomness is a function of the sample's key (see `utils.seed`), not of its batch or worker.
One image: `transform(image [C, H, W]) -> image`, seeded with its key beforehand; draw from torch, NumPy or Python.
Whole batches, on any device: derive from `OfBatches`; false if it changes nothing.
"""

import functools
import math
import random
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from data_loader.engine.augmentation import OfBatches, as_tensor
from data_loader.engine.images.decode import AnyImage, crop, scaled
from utils.errors import UsageError
from utils.seed import uniform


class RandomAffine(OfBatches):
    """Rotate, shift, scale and shear each image by random amounts; new pixels at the border are 0.

    rotate, shear: maximum angle in degrees, to either side. shift: maximum shift in pixels, in x and in y.
    scale: the maximum factor is `1 + scale`, the minimum its inverse.
    With `degrees`, it is torchvision's transform of this name, and all arguments are torchvision's.
    """

    def __new__(cls, *args: Any, degrees: float | Sequence[float] | None = None, **theirs: Any) -> Any:
        if degrees is None:
            return super().__new__(cls)
        if args:
            raise UsageError("RandomAffine: with degrees, give all arguments by their names")
        return _of_torchvision("RandomAffine", degrees=degrees, **theirs)

    def __init__(
        self,
        rotate: float = 0.0,
        shift: float = 0.0,
        scale: float | Sequence[float] | None = None,
        shear: float | Sequence[float] | None = None,
        degrees: float | Sequence[float] | None = None,
        translate: Sequence[float] | None = None,
        interpolation: Any = "nearest",
        fill: Any = 0,
        center: Sequence[float] | None = None,
    ):
        scale, shear = scale or 0.0, shear or 0.0
        theirs = translate or center or fill != 0 or interpolation != "nearest"
        if not isinstance(scale, (int, float)) or not isinstance(shear, (int, float)) or theirs:
            raise UsageError(
                "RandomAffine: translate, center, fill, interpolation, and several numbers for scale or shear are of "
                "torchvision's transform, which needs degrees; add it, such as degrees: 10, or degrees: 0"
            )
        if scale < 0 or not abs(shear) < 90:
            raise UsageError(
                f"RandomAffine: scale is {scale} and shear is {shear}; give a scale of 0 or more (0.1: between 1 / 1.1 "
                f"and 1.1), and a shear below 90 degrees"
            )
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
        if crop < 0:
            raise UsageError(f"RandomCropFlip: crop is {crop}; give a number of pixels, 0 or more")
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
    """Reflect indices outside 0 ... size - 1 back into it, as often as needed."""
    period = max(2 * (size - 1), 1)
    index = index.remainder(period)
    return torch.minimum(index, period - index)


def RandomErasing(
    p: float = 0.5,
    scale: Sequence[float] = (0.02, 0.33),
    ratio: Sequence[float] = (0.3, 3.3),
    value: float | Sequence[float] | str = 0.0,
    inplace: bool = False,
) -> Any:
    """torchvision's, which says that value is a number, but also takes one for each channel, or "random"."""
    return _of_torchvision("RandomErasing", p=p, scale=scale, ratio=ratio, value=value, inplace=inplace)


# -- torchvision's; they decode large files only at the resolution they need -------------------------------------------


def _of_torchvision(name: str, **arguments: Any) -> Any:
    """The transform of this name. interpolation may be a string: bilinear, bicubic."""
    from torchvision.transforms import InterpolationMode, v2  # takes seconds to import

    if isinstance(arguments.get("interpolation"), str):
        arguments["interpolation"] = InterpolationMode(arguments["interpolation"].rpartition(".")[2].lower())
    return getattr(v2, name)(**arguments)


def _sides(size: int | Sequence[int], name: str) -> tuple[int, int]:
    """height, width"""
    sides = [size] if isinstance(size, int) else list(size)
    if len(sides) not in (1, 2) or min(sides) < 1:
        raise UsageError(f"{name}: size is {size}; give a number of 1 or more, or two, [height, width]")
    return sides[0], sides[-1]


class OfFiles:
    """A transform of torchvision that has a faster way for an image that is not decoded yet; define both."""

    decodes = True  # it takes an image file that is not decoded yet (data_loader/engine/images/decode.py)
    changes_by_itself = ("_usual",)  # does not affect samples

    def torchvision(self) -> Any:
        raise NotImplementedError

    def of_file(self, image: AnyImage) -> Tensor | None:
        """uint8 [3, H, W]; None where only torchvision's transform does it."""
        raise NotImplementedError

    @functools.cached_property
    def _usual(self) -> Any:
        return self.torchvision()

    @staticmethod
    def resizes_alike(interpolation: Any, antialias: bool | None) -> bool:
        """Are these torchvision's defaults, by which files are resized here?"""
        return str(interpolation).rpartition(".")[2].lower() == "bilinear" and antialias is not False

    def __call__(self, *inputs: Any) -> Any:
        image = inputs[0]
        if not hasattr(image, "rgb"):
            return self._usual(*inputs)
        found = self.of_file(image)
        return self._usual(as_tensor(image)) if found is None else found


class RandomResizedCrop(OfFiles):
    """A random crop of `scale` of the image's area, `ratio` in width over height, resized to `size`, as torchvision's.

    flip: the probability that it is mirrored, too. Szegedy et al., Going Deeper with Convolutions, 2015.
    """

    def __init__(
        self,
        size: int | Sequence[int],
        scale: Sequence[float] = (0.08, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        interpolation: Any = "bilinear",
        antialias: bool | None = True,
        flip: float = 0.0,
    ):
        if not (0 < scale[0] <= scale[1] and 0 < ratio[0] <= ratio[1] and 0 <= flip <= 1):
            raise UsageError(
                f"RandomResizedCrop: scale is {list(scale)}, ratio is {list(ratio)} and flip is {flip}; give scale and "
                f"ratio two positive numbers, the smaller one first, and flip a number from 0 to 1"
            )
        self.height, self.width = _sides(size, "RandomResizedCrop")
        self.scale, self.ratio, self.flip = tuple(scale), tuple(ratio), flip
        self.interpolation, self.antialias = interpolation, antialias

    def torchvision(self) -> Any:
        options = {"interpolation": self.interpolation, "antialias": self.antialias}
        size = (self.height, self.width)
        cut = _of_torchvision("RandomResizedCrop", size=size, scale=self.scale, ratio=self.ratio, **options)
        return _of_torchvision("Compose", transforms=[cut, _of_torchvision("RandomHorizontalFlip", p=self.flip)])

    def of_file(self, image: AnyImage) -> Tensor | None:
        if not self.resizes_alike(self.interpolation, self.antialias):
            return None
        part = crop(image, self._box(*image.size), self.height, self.width)
        return part.flip(2) if self.flip and random.random() < self.flip else part

    def _box(self, width: int, height: int) -> tuple[int, int, int, int]:
        """left, top, right, bottom"""
        low, high = self.ratio
        for _ in range(10):
            area = width * height * random.uniform(*self.scale)
            shape = math.exp(random.uniform(math.log(low), math.log(high)))
            w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
            if 0 < w <= width and 0 < h <= height:
                left, top = random.randint(0, width - w), random.randint(0, height - h)
                return left, top, left + w, top + h
        # No such crop fits, because the image is too long: take its middle
        w, h = min(width, round(height * high)), min(height, round(width / low))
        left, top = (width - w) // 2, (height - h) // 2
        return left, top, left + w, top + h


class Resize(OfFiles):
    """Resize to [height, width], or the short side to a number, as torchvision's."""

    def __init__(
        self,
        size: int | Sequence[int] | None,
        interpolation: Any = "bilinear",
        max_size: int | None = None,
        antialias: bool | None = True,
    ):
        if size is not None:
            _sides(size, "Resize")
        self.size, self.interpolation, self.max_size, self.antialias = size, interpolation, max_size, antialias

    def torchvision(self) -> Any:
        options = {"interpolation": self.interpolation, "antialias": self.antialias}
        return _of_torchvision("Resize", size=self.size, max_size=self.max_size, **options)

    def of_file(self, image: AnyImage) -> Tensor | None:
        alike = self.resizes_alike(self.interpolation, self.antialias)
        if not alike or self.max_size is not None or self.size is None:
            return None
        height, width = _sides(self.size, "Resize")
        if isinstance(self.size, int) or len(self.size) == 1:
            width, height = scaled(image.size, height)
        return crop(image, (0, 0, *image.size), height, width)


class CenterCrop(OfFiles):
    """The center of the image, as torchvision's. resize: resize the short side to this before, 256 for 224 say."""

    def __init__(self, size: int | Sequence[int], resize: int | None = None):
        self.height, self.width = _sides(size, "CenterCrop")
        self.resize = None if resize is None else Resize(resize)

    def torchvision(self) -> Any:
        cut = _of_torchvision("CenterCrop", size=(self.height, self.width))
        return _of_torchvision("Compose", transforms=[*([self.resize] if self.resize else []), cut])

    def of_file(self, image: AnyImage) -> Tensor | None:
        resized = None if self.resize is None else self.resize.of_file(image)
        if resized is None or resized.shape[1] < self.height or resized.shape[2] < self.width:
            return None  # torchvision adds a border
        top, left = round((resized.shape[1] - self.height) / 2), round((resized.shape[2] - self.width) / 2)
        return resized[:, top : top + self.height, left : left + self.width]
