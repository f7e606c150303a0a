"""Images in memory: whole batches at once, normalized, augmented on any device."""

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data_loader.engine.augmentation import Augmented, InOrder, OfBatches, Transform, normalize_in, of_image
from data_loader.engine.changes import log
from data_loader.engine.data_sets import Tensors
from data_loader.engine.images.decode import ImageFile, pixels, resize
from utils.errors import UsageError
from utils.seed import sample_keys
from utils.tensors import each_tensor, to_device

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Normalize:
    """[..., C, H, W], values 0 ... max_value -> float32, normalized by `mean` and `std`, which are of values 0 ... 1.

    Works in place on floats.
    """

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], max_value: float = 255):
        self.mean, self.std = mean, std
        self.channels = [(torch.tensor(-m / s), 1 / (s * max_value)) for m, s in zip(mean, std, strict=True)]

    def __call__(self, images: Tensor) -> Tensor:
        if len(self.channels) > 1 and images.shape[-3] != len(self.channels):
            raise ValueError(
                f"the images have {images.shape[-3]} channels, but mean and std are of {len(self.channels)}; keep the "
                f"channels, or let transforms and eval_transforms end with floats, which stay as they are"
            )
        images = images.float()
        if 0 in images.stride():  # expand() made channels that share memory
            images = images.contiguous()
        channels = images.unbind(-3) if len(self.channels) > 1 else [images]
        for channel, (shift, scale) in zip(channels, self.channels, strict=True):
            torch.add(shift, channel, alpha=scale, out=channel)  # one pass over the memory, not two
        return images


class NormalizeBatch:
    """A `batch_transform`: normalizes the uint8 images of a batch (images, labels) by `mean` and `std`. Floats, which
    transforms of a config have made, stay as they are."""

    changes_by_itself = ("dtypes",)  # does not affect samples

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], transforms: Sequence[Transform] | None = None):
        """transforms: those of training. Raises UsageError for values of 0..255."""
        if max(mean) > 1 or min(std) <= 0:
            raise UsageError(
                f"data_loader: mean is {list(mean)} and std is {list(std)}; give those of values 0..1 (divide by 255), "
                f"and std more than 0"
            )
        self.normalize = Normalize(mean, std)
        own = normalize_in(transforms or ())
        self.agrees = bool(own) and (tuple(own[-1].mean), tuple(own[-1].std)) == (tuple(mean), tuple(std))
        self.dtypes = set[torch.dtype]()

    def __call__(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        images, labels = batch
        return each_tensor(self._normalized, images), labels  # one tensor, or several of FiveCrop

    def _normalized(self, images: Tensor) -> Tensor:
        if images.dtype not in self.dtypes:
            self.dtypes.add(images.dtype)
            if len(self.dtypes) > 1 and torch.uint8 in self.dtypes and not self.agrees:
                log.warning(
                    f"data_loader: the images of training and evaluation are normalized differently: some are floats, "
                    f"which stay as transforms make them, and some uint8, normalized by mean {self.normalize.mean} and "
                    f"std {self.normalize.std}. Leave out what makes floats (ToDtype, Normalize; mean and std are "
                    f"options of the loader), or list the same in eval_transforms"
                )
        return self.normalize(images) if images.dtype == torch.uint8 else images


def read_gray(paths: Sequence[str], size: int) -> Tensor:
    """Image files, each resized to a square: uint8 [N, 1, size, size]"""
    images = []
    for path in paths:
        with ImageFile(path) as file:
            images.append(resize(pixels(file.rgb().convert("L").convert("RGB")), size, size)[:1])
    return torch.stack(images)


class ImageTensors(Tensors):
    """Images [N, C, H, W] as uint8 in memory, with labels [N]; whole batches are read and normalized at once."""

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        max_value: int = 255,
        augment: Callable[[Tensor, Tensor], Tensor] | None = None,
    ):
        super().__init__([images, labels])
        self.max_value, self.normalize, self.augment = max_value, Normalize(mean, std, max_value), augment

    def augmented(self, augment: Callable[[Tensor, Tensor], Tensor]) -> "ImageTensors":
        """The same images (not copied), each batch passed through `augment(images, keys)`."""
        other = copy.copy(self)  # shares the list of tensors, so `to` moves both
        other.augment = augment
        return other

    def with_transforms(self, transforms: Sequence[Transform]) -> Dataset:
        """The same images, transformed: whole batches at once if all transforms can do that, otherwise one by one."""
        of_batches = [transform for transform in transforms if isinstance(transform, OfBatches)]
        if len(of_batches) < len(transforms):
            return TransformedImages(self, transforms)
        wanted = [transform for transform in of_batches if transform]  # false: it changes nothing
        return self.augmented(wanted[0] if len(wanted) == 1 else InOrder(wanted)) if wanted else self

    def __getitems__(self, indices: Sequence[int] | np.ndarray) -> tuple[Tensor, ...]:
        images, labels = super().__getitems__(indices)
        if self.augment:
            images = self.augment(images, to_device(sample_keys(), images.device))
        return self.normalize(images), labels

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        images, labels = self.__getitems__([index])
        return images[0], labels[0]


class TransformedImages(Augmented):
    """Images in memory, each transformed as uint8 [C, H, W], values 0..255, and normalized if it still is uint8."""

    def __init__(self, dataset: ImageTensors, transforms: Sequence[Transform]) -> None:
        super().__init__(dataset, transforms)
        of_plain = dataset.normalize
        self.__dict__["normalize"] = Normalize(of_plain.mean, of_plain.std)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        images, labels = self.dataset.tensors
        image = images[index].clone()  # some transforms work in place
        if self.dataset.max_value != 255:
            image = (image * (255 / self.dataset.max_value)).round().to(torch.uint8)
        image = of_image(self.transforms, image)
        if image.dtype == torch.uint8:
            image = self.normalize(image[None])[0]
        return image, labels[index]
