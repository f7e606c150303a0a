"""What the transforms of a config do: `transforms` to each sample, `batch_transforms` to whole batches on the device.

A transform of one image is called with a tensor [C, H, W], uint8 until one of them makes it float. Its draws (torch,
NumPy, Python) are seeded for each sample. A transform of whole batches derives from `OfBatches`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from data_loader.engine.failures import describe, shape_of
from data_loader.engine.splits import length
from utils.errors import UsageError

Transform = Callable[..., Any]
MIXING = ("MixUp", "CutMix")  # of torchvision.transforms.v2
ANOTHER = 0x632BE59BD9B4E019  # between the keys of two transforms of one list


class TransformError(Exception):
    """A transform failed; says which, for what, and why."""


class OfBatches:
    """A transform of whole batches, on any device: derive from it and define `batch`."""

    def batch(self, images: Tensor, keys: Tensor) -> Tensor:
        """images [B, C, H, W], keys [B] -> images. All randomness is a function of each sample's key."""
        raise NotImplementedError

    def __call__(self, images: Tensor, keys: Tensor | None = None) -> Tensor:
        """Without keys: of one image [C, H, W], beside transforms that know no others; of the same dtype."""
        if keys is not None:
            return self.batch(images, keys)
        return _as(images.dtype, self.batch(images[None], drawn_keys(1, images.device))[0])


class InOrder(OfBatches):
    """Several transforms of whole batches, one after another."""

    def __init__(self, transforms: Sequence[OfBatches]) -> None:
        self.transforms = transforms

    def batch(self, images: Tensor, keys: Tensor) -> Tensor:
        for transform in self.transforms:
            images = transform.batch(images, keys)
            keys = keys + ANOTHER  # int64, which wraps around
        return images


def drawn_keys(n: int, device: torch.device) -> Tensor:
    """Keys [n] for `OfBatches`, drawn from torch's generator."""
    return torch.randint(2**62, (n,)).to(device)


# -- transforms of samples --------------------------------------------------------------------------------------------


def augmented(dataset: Any, transforms: Sequence[Transform] | None) -> Any:
    """The data set with each sample passed through the transforms in order; itself without any.

    A data set may have a method `with_transforms(transforms)` that does it faster.
    Raises UsageError for an object that cannot transform samples.
    """
    if dataset is None or not transforms:
        return dataset
    length(dataset, "dataset")  # or else it would be the wrapper's error
    for transform in _all(transforms):
        _check(transform, "transforms")
        if type(transform).__name__ in MIXING:
            raise UsageError(
                f"data_loader: {type(transform).__name__} mixes the samples of a batch, but `transforms` get one "
                f"sample at a time; list it in `batch_transforms`"
            )
    own = getattr(dataset, "with_transforms", None)
    return own(transforms) if own is not None else Augmented(dataset, transforms)


class Augmented(Dataset):
    """The samples of a data set, each passed through the transforms in order. Other attributes are the data set's."""

    def __init__(self, dataset: Any, transforms: Sequence[Transform]) -> None:
        self.__dict__.update(dataset=dataset, transforms=list(transforms))

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return apply(self.transforms, self.dataset[index])

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "dataset" not in self.__dict__:  # pickle reads attributes before __init__ has run
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Attributes that a callback sets are set on the data set."""
        owner = self if name in self.__dict__ else self.dataset
        object.__setattr__(owner, name, value)


def apply(transforms: Sequence[Transform], sample: Any) -> Any:
    """Transform a sample: the first part of a tuple, which is the image. Of a dict, and where there are boxes or masks
    (torchvision.tv_tensors), the transforms get the whole sample, and change all of it alike."""
    if isinstance(sample, Mapping) or any(_is_tv_tensor(part) for part in _leaves(sample)):
        for transform in transforms:
            sample = _call(transform, sample)
        return sample
    if isinstance(sample, (tuple, list)):
        first = of_image(transforms, sample[0])
        return type(sample)(first, *sample[1:]) if hasattr(sample, "_fields") else (first, *sample[1:])
    return of_image(transforms, sample)


def of_image(transforms: Sequence[Transform], image: Any) -> Any:
    """One image through the transforms in order. Pictures of PIL, and images that are decoded when they are needed
    (vision.py), become tensors [C, H, W] before the first transform that does not take them. Pictures that a transform
    makes (ToPILImage) go to the next as they are."""
    made: Any = None
    for transform in transforms:
        decodes = getattr(transform, "decodes", False) and hasattr(image, "rgb")
        if not decodes and (image is not made or isinstance(transform, OfBatches)):
            image = as_tensor(image)
        image = made = _call(transform, image)
    return as_tensor(image)


def as_tensor(image: Any) -> Any:
    """uint8 [C, H, W] of a picture of PIL, or from an object with `rgb()`; anything else unchanged."""
    if hasattr(image, "rgb"):
        image = image.rgb()
    if not type(image).__module__.startswith("PIL."):
        return image
    pixels = np.array(image)
    return torch.from_numpy(pixels[:, :, None] if pixels.ndim == 2 else pixels).permute(2, 0, 1)


def _call(transform: Transform, image: Any) -> Any:
    if _normalizes(transform) and getattr(image, "dtype", None) == torch.uint8:
        image = image.float() / 255  # the mean and std are of values 0..1
    try:
        found = transform(image)
        if found is None:
            raise TypeError("it returned None")
        return found
    except Exception as e:
        hint = _hint(transform, image, e)
        raise TransformError(f"{_name(transform)} failed for {shape_of(image)}: {describe(e)}{hint}") from e


def _hint(transform: Transform, image: Any, error: Exception) -> str:
    """Advice for a transform that needs images of another kind."""
    if type(transform).__module__.startswith("albumentations"):
        return (
            "; call it in a function in data_loader/transforms.py: take a tensor [C, H, W], give it the array "
            "image=image.permute(1, 2, 0).numpy(), and return a tensor [C, H, W] of its result['image']"
        )
    if isinstance(image, Tensor) and (isinstance(error, AttributeError) or "PIL" in str(error)):
        return (
            "; transforms get tensors [C, H, W] (leave out ToTensor): list ToPILImage before one that is for pictures "
            "of PIL"
        )
    if isinstance(image, (tuple, list)):
        return "; transforms get the image and its mask or boxes together: take one that knows torchvision's tv_tensors"
    return ""


def _as(dtype: torch.dtype, image: Tensor) -> Tensor:
    if image.dtype == dtype:
        return image
    return image.to(dtype) if dtype.is_floating_point else image.round().clamp(0, torch.iinfo(dtype).max).to(dtype)


# -- transforms of batches --------------------------------------------------------------------------------------------


class BatchTransforms:
    """Calls the transforms in order with the (inputs, targets) of each training batch, on the run's device.

    mixed: whether they turned labels [B] into probabilities [B, C].
    """

    changes_by_itself = ("mixed",)  # does not affect samples

    def __init__(self, transforms: Iterable[Transform]) -> None:
        self.transforms, self.mixed = list(transforms), False
        for transform in _all(self.transforms):
            _check(transform, "batch_transforms")

    def start(self, facts: Mapping[str, Any]) -> None:
        """Fill num_classes from the facts of the data. Raises UsageError where it is not known."""
        for transform in _all(self.transforms):
            if type(transform).__name__ in MIXING and transform.num_classes is None:
                if "num_classes" not in facts:
                    raise UsageError(
                        f"data_loader: {type(transform).__name__} needs the number of classes, which the data does not "
                        f"state; give it as args: {{num_classes: N}}, or the data set a list `classes`"
                    )
                transform.num_classes = facts["num_classes"]

    def __call__(self, batch: Any) -> Any:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise TypeError(f"batch_transforms take a batch (inputs, targets), got {shape_of(batch)}")
        inputs, targets = batch
        was_labels = isinstance(targets, Tensor) and targets.dim() == 1
        for transform in self.transforms:
            if isinstance(transform, OfBatches):
                inputs = transform.batch(inputs, drawn_keys(len(inputs), inputs.device))
            else:
                _check_mixing(transform, inputs, targets)
                mixed = transform(inputs, targets)
                if not isinstance(mixed, (tuple, list)) or len(mixed) != 2:
                    raise TypeError(f"{_name(transform)} returned {shape_of(mixed)}; return (inputs, targets)")
                inputs, targets = mixed
        self.mixed = self.mixed or (was_labels and targets.dim() == 2)
        return inputs, targets

    def labels(self, targets: Any) -> Any:
        """The larger of the mixed labels of each sample, [B]; targets that were not mixed as they are."""
        return targets.argmax(dim=1) if self.mixed and isinstance(targets, Tensor) and targets.dim() == 2 else targets


def _check_mixing(transform: Transform, inputs: Any, targets: Any) -> None:
    name = type(transform).__name__
    if name in MIXING and isinstance(targets, Tensor) and targets.dim() != (2 if targets.is_floating_point() else 1):
        raise TypeError(
            f"{name} mixes class numbers, int64 [B], or probabilities [B, C], but the targets are {shape_of(targets)}"
        )
    if name == "MixUp" and isinstance(inputs, Tensor) and not inputs.is_floating_point():
        raise TypeError(
            f"MixUp needs floats, got {shape_of(inputs)}; in transforms and eval_transforms, list "
            f"{{type: ToDtype, args: {{dtype: float32, scale: true}}}}"
        )


# -- helpers ----------------------------------------------------------------------------------------------------------


def normalization(loader: Any) -> tuple[Sequence[float], Sequence[float]] | None:
    """The mean and std, of values 0..1, that the images of a loader are normalized by at the end; None if not known."""
    transforms = getattr(loader.dataset, "transforms", None)
    known = normalize_in(transforms if isinstance(transforms, list) else ())
    known += [n for n in (getattr(o, "normalize", None) for o in (loader.dataset, loader.batch_transform)) if n]
    return (known[0].mean, known[0].std) if known and hasattr(known[0], "std") else None


def normalize_in(transforms: Iterable[Transform]) -> list[Any]:
    """torchvision's `Normalize` among the transforms."""
    return [transform for transform in _all(transforms) if _normalizes(transform)]


def _all(transforms: Iterable[Any]) -> Iterator[Any]:
    """The transforms, and those inside of Compose, RandomApply and the like."""
    for transform in transforms:
        yield transform
        inner = getattr(transform, "transforms", None)
        if isinstance(inner, (list, tuple, nn.ModuleList)):
            yield from _all(inner)


def _check(transform: Any, option: str) -> None:
    if not callable(transform):
        raise UsageError(
            f"data_loader: {option} has an object of type {type(transform).__name__}, which cannot be called; give "
            f"transforms, such as RandAugment or those of data_loader/transforms.py"
        )


def _normalizes(transform: Any) -> bool:
    return type(transform).__name__ == "Normalize" and type(transform).__module__.startswith("torchvision.")


def _name(transform: Any) -> str:
    return getattr(transform, "__name__", type(transform).__name__)


def _leaves(sample: Any) -> Iterator[Any]:
    if isinstance(sample, (tuple, list, Mapping)):
        for part in sample.values() if isinstance(sample, Mapping) else sample:
            yield from _leaves(part)
    else:
        yield sample


def _is_tv_tensor(part: Any) -> bool:
    return type(part).__module__.startswith("torchvision.tv_tensors") and type(part).__name__ != "Image"
