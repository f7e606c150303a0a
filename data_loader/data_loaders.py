"""The data sets of this project. Add yours: a subclass of `BaseDataLoader` whose signature has `training: bool = True`.

`training=False` is how `test.py` asks for the test data. `**kwargs` hands what `BaseDataLoader` takes on to it.
"""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from data_loader.base_data_loader import BaseDataLoader
from data_loader.transforms import Centre, RandomAffine, RandomCropFlip, RandomResizedCrop
from utils.distributed import is_first_here, wait_for_all
from utils.errors import DataError
from utils.seed import sample_keys
from utils.tensors import to_device

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class DigitsDataLoader(BaseDataLoader):
    """1,797 handwritten digits, [B, 1, 8, 8]: 1,500 to train and validate, the last 297 to test. Part of the project.

    rotate, shear (degrees), shift (pixels), scale (fraction): augmentation, see `RandomAffine`.
    """

    def __init__(
        self,
        batch_size: int = 64,
        training: bool = True,
        rotate: float = 0.0,
        shift: float = 0.0,
        scale: float = 0.0,
        shear: float = 0.0,
        **kwargs,
    ):
        plain = ImageTensors(*read_digits(training), mean=(0.305,), std=(0.375,), white=16)
        dataset = plain.augmented(RandomAffine(rotate, shift, scale, shear)) if training else plain
        super().__init__(dataset, batch_size, eval_dataset=plain, **kwargs)


class MnistDataLoader(BaseDataLoader):
    """MNIST, [B, 1, 28, 28]; 60,000 digits to train and validate, 10,000 to test. Downloads it if it is missing.

    rotate, shear (degrees), shift (pixels), scale (fraction): augmentation, see `RandomAffine`.
    """

    def __init__(
        self,
        data_dir: str = "data/",
        batch_size: int = 128,
        training: bool = True,
        rotate: float = 0.0,
        shift: float = 0.0,
        scale: float = 0.0,
        shear: float = 0.0,
        **kwargs,
    ):
        plain = ImageTensors(*read_mnist(data_dir, training), mean=(0.1307,), std=(0.3081,))
        dataset = plain.augmented(RandomAffine(rotate, shift, scale, shear)) if training else plain
        super().__init__(dataset, batch_size, eval_dataset=plain, **kwargs)


class Cifar10DataLoader(BaseDataLoader):
    """CIFAR-10, [B, 3, 32, 32]; 50,000 images to train and validate, 10,000 to test. Downloads it if it is missing.

    crop (pixels), flip: augmentation, see `RandomCropFlip`; 4 and true are usual.
    """

    def __init__(
        self,
        data_dir: str = "data/",
        batch_size: int = 128,
        training: bool = True,
        crop: int = 0,
        flip: bool = False,
        **kwargs,
    ):
        plain = ImageTensors(
            *read_cifar10(data_dir, training), mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.2435, 0.2616)
        )
        dataset = plain.augmented(RandomCropFlip(crop, flip)) if training else plain
        super().__init__(dataset, batch_size, eval_dataset=plain, **kwargs)


class ImageFolderDataLoader(BaseDataLoader):
    """JPEG and PNG files in class folders data_dir/train/CLASS/ and data_dir/test/CLASS/: [B, 3, size, size].

    Training sees random crops (at least `min_area` of the image) and mirror images, evaluation the centre.
    Classes are numbered in the order of the folder names in `train_folder`, for testing too.
    """

    def __init__(
        self,
        data_dir: str,
        batch_size: int = 64,
        training: bool = True,
        size: int = 224,
        min_area: float = 0.08,
        train_folder: str = "train",
        test_folder: str = "test",
        **kwargs,
    ):
        classes = class_folders(Path(data_dir, train_folder))
        samples = list_images(Path(data_dir, train_folder if training else test_folder), classes)
        plain = ImageFiles(samples, Centre(size))
        dataset = ImageFiles(samples, RandomResizedCrop(size, min_area)) if training else plain
        self.classes = classes
        normalise = Normalise(IMAGENET_MEAN, IMAGENET_STD)
        super().__init__(
            dataset, batch_size, eval_dataset=plain, finish=lambda batch: (normalise(batch[0]), batch[1]), **kwargs
        )


# --- what they are made of


class Normalise:
    """[B, C, H, W] of 0 ... white -> float32 with the given mean and deviation taken as of 0 ... 1; floats in place."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], white: float = 255):
        self.channels = [(torch.tensor(-m / s), 1 / (s * white)) for m, s in zip(mean, std, strict=True)]

    def __call__(self, images: Tensor) -> Tensor:
        images = images.float()
        if 0 in images.stride():  # of expand(): channels that are the same memory
            images = images.contiguous()
        channels = images.unbind(1) if len(self.channels) > 1 else [images]
        for channel, (shift, scale) in zip(channels, self.channels, strict=True):
            torch.add(shift, channel, alpha=scale, out=channel)  # one pass; to subtract and to divide are two
        return images


class ImageTensors(Dataset):
    """Images [N, C, H, W] as uint8 in memory, with labels [N]; a whole batch at once becomes normalised float32."""

    in_memory = True

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        white: int = 255,
        augment: Callable[[Tensor, Tensor], Tensor] | None = None,
    ):
        self.tensors = [images, labels]
        self.normalise, self.augment = Normalise(mean, std, white), augment

    def augmented(self, augment: Callable[[Tensor, Tensor], Tensor]) -> "ImageTensors":
        """The same images (not copied), each batch through `augment(images, keys)`."""
        other = copy.copy(self)  # with the same list of tensors
        other.augment = augment
        return other

    def to(self, device: torch.device) -> None:
        """Move the images and labels, also those of the data set that this one augments."""
        self.tensors[:] = [tensor.to(device) for tensor in self.tensors]

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitems__(self, indices: Sequence[int] | np.ndarray) -> tuple[Tensor, Tensor]:
        all_images, all_labels = self.tensors
        at = to_device(torch.from_numpy(np.asarray(indices)), all_images.device)
        images = all_images.index_select(0, at)  # half the time of all_images[at]
        if self.augment:
            images = self.augment(images, to_device(sample_keys(), images.device))
        return self.normalise(images), all_labels.index_select(0, at)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        images, labels = self.__getitems__([index])
        return images[0], labels[0]


class ImageFiles(Dataset):
    """The files of `samples` (path, class): each image, upright and in colour, through `transform`, and the class."""

    def __init__(self, samples: list[tuple[str, int]], transform: Callable[[Image.Image], Tensor]):
        self.samples, self.transform = samples, transform

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.samples[index]
        with Image.open(path) as image:
            ImageOps.exif_transpose(image, in_place=True)
            return self.transform(image if image.mode == "RGB" else image.convert("RGB")), label


def read_digits(training: bool) -> tuple[Tensor, Tensor]:
    """Images [N, 1, 8, 8] of 0 ... 16 and labels [N]; see digits/README.md for their source and split."""
    part = slice(None, 1500) if training else slice(1500, None)
    with np.load(Path(__file__).parent / "digits" / "digits.npz") as digits:
        images, labels = digits["images"][part], digits["labels"][part]
    return torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels).long()


def read_idx(path: Path) -> Tensor:
    """A uint8 tensor from a file in the IDX format: two zeros, 8 (uint8), number of dimensions, sizes, data."""
    data = path.read_bytes()
    dimensions = data[3] if data[:3] == b"\0\0\x08" and len(data) > 3 else 0
    start = 4 + 4 * dimensions
    shape = [int.from_bytes(data[i : i + 4], "big") for i in range(4, start, 4)]
    if not dimensions or len(data) != start + int(np.prod(shape)):
        raise DataError(f"{path}: not a whole IDX file of uint8 (it has {len(data)} bytes); delete it and run again")
    return torch.frombuffer(bytearray(data[start:]), dtype=torch.uint8).view(shape)


def read_mnist(data_dir: str, training: bool) -> tuple[Tensor, Tensor]:
    """Images [N, 1, 28, 28] and labels [N] of MNIST from data_dir/MNIST/raw, where torchvision puts it."""
    raw, part = Path(data_dir, "MNIST", "raw"), "train" if training else "t10k"
    files = [raw / f"{part}-images-idx3-ubyte", raw / f"{part}-labels-idx1-ubyte"]
    if is_first_here() and not all(file.exists() for file in files):
        from torchvision.datasets import MNIST  # importing it takes seconds

        download(MNIST, data_dir, f"{files[0].name} and {files[1].name} (unzipped) into {raw.resolve()}")
    wait_for_all()
    return read_idx(files[0]).unsqueeze(1), read_idx(files[1]).long()


def read_cifar10(data_dir: str, training: bool) -> tuple[Tensor, Tensor]:
    """Images [N, 3, 32, 32] and labels [N] of CIFAR-10 from data_dir/cifar-10-batches-py, where torchvision puts it."""
    from torchvision.datasets import CIFAR10

    if is_first_here():
        download(CIFAR10, data_dir, f"{CIFAR10.filename} (unpacked) into {Path(data_dir).resolve()}")
    wait_for_all()
    dataset = CIFAR10(data_dir, train=training)
    return torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(dataset.targets)


def download(dataset: Any, data_dir: str, what: str) -> None:
    """Fetch torchvision's `dataset` into data_dir unless it is there; DataError says what to do where that fails."""
    try:
        dataset(data_dir, download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{dataset.__name__} is not in {Path(data_dir).resolve()} and could not be downloaded: {error}\n"
            f"Put {what}, or set data_loader.args.data_dir to where it is."
        ) from error


def class_folders(folder: Path) -> list[str]:
    """Names of the class folders in `folder`, sorted."""
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []
    if not classes:
        raise DataError(
            f"No class folders in {folder.resolve()}. Put the images of each class into a folder of its name there, "
            f"as {folder / 'cat' / '1.jpg'}, or set data_loader.args.data_dir to where they are."
        )
    return classes


def list_images(folder: Path, classes: list[str]) -> list[tuple[str, int]]:
    """(path, class number) of all images below `folder`, sorted by class, then path."""
    if unknown := sorted(set(class_folders(folder)) - set(classes)):
        raise DataError(f"{folder.resolve()} has class folders that the training data lack: {', '.join(unknown)}")
    endings = {".jpg", ".jpeg", ".png"}
    samples = [
        (str(path), number)
        for number, name in enumerate(classes)
        for path in sorted((folder / name).rglob("*"))
        if path.suffix.lower() in endings
    ]
    if not samples:
        raise DataError(f"No images ({', '.join(sorted(endings))}) in the class folders of {folder.resolve()}")
    return samples
