"""Image data sets: MNIST, CIFAR-10, and folders of JPEG and PNG files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from data_loader import BaseDataLoader
from data_loader.engine.facts import class_facts
from data_loader.engine.images import ImageTensors, Normalize
from data_loader.transforms import CenterCrop, RandomAffine, RandomCropFlip, RandomResizedCrop
from utils.errors import DataError
from utils.process.group import barrier, is_local_main

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR10_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png")


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
        images, labels = read_mnist(data_dir, training)
        plain = ImageTensors(images, labels, mean=(0.1307,), std=(0.3081,))
        dataset = plain.augmented(RandomAffine(rotate, shift, scale, shear)) if training else plain
        super().__init__(dataset, batch_size, eval_dataset=plain, **kwargs)
        self.facts = class_facts([str(digit) for digit in range(10)], labels if training else None)


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
        images, labels = read_cifar10(data_dir, training)
        plain = ImageTensors(images, labels, mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.2435, 0.2616))
        dataset = plain.augmented(RandomCropFlip(crop, flip)) if training else plain
        super().__init__(dataset, batch_size, eval_dataset=plain, **kwargs)
        self.facts = class_facts(CIFAR10_CLASSES, labels if training else None)


class ImageFolderDataLoader(BaseDataLoader):
    """JPEG and PNG files in class folders data_dir/train/CLASS/ and data_dir/test/CLASS/: [B, 3, size, size].

    Training sees random crops (at least `min_area` of the image) and mirror images, evaluation the center.
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
        plain = ImageFiles(samples, CenterCrop(size))
        dataset = ImageFiles(samples, RandomResizedCrop(size, min_area)) if training else plain
        normalize = Normalize(IMAGENET_MEAN, IMAGENET_STD)

        def batch_transform(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            images, labels = batch
            return normalize(images), labels

        super().__init__(dataset, batch_size, eval_dataset=plain, batch_transform=batch_transform, **kwargs)
        labels = torch.tensor([label for _, label in samples]) if training else None
        self.facts = class_facts(classes, labels)


# --- data sets


class ImageFiles(Dataset):
    """Reads each file of `samples` (path, class) upright and in RGB: (transform(image), class)."""

    def __init__(self, samples: list[tuple[str, int]], transform: Callable[[Image.Image], Tensor]):
        self.samples, self.transform = samples, transform

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.samples[index]
        with Image.open(path) as image:
            ImageOps.exif_transpose(image, in_place=True)
            rgb = image if image.mode == "RGB" else image.convert("RGB")
            return self.transform(rgb), label


# --- reading files


def read_idx(path: Path) -> Tensor:
    """A uint8 tensor from a file in the IDX format: two zeros, 8 (uint8), number of dimensions, sizes, data."""
    data = path.read_bytes()
    dimensions = data[3] if data[:3] == b"\0\0\x08" and len(data) > 3 else 0
    start = 4 + 4 * dimensions
    shape = [int.from_bytes(data[i : i + 4], "big") for i in range(4, start, 4)]
    if not dimensions or len(data) != start + int(np.prod(shape)):
        raise DataError(
            f"{path}: not a complete IDX file of uint8 ({len(data)} bytes); delete it and run again to download it"
        )
    return torch.frombuffer(bytearray(data[start:]), dtype=torch.uint8).view(shape)


def read_mnist(data_dir: str, training: bool) -> tuple[Tensor, Tensor]:
    """Images [N, 1, 28, 28] and labels [N] of MNIST from data_dir/MNIST/raw, where torchvision puts it."""
    raw, part = Path(data_dir, "MNIST", "raw"), "train" if training else "t10k"
    files = [raw / f"{part}-images-idx3-ubyte", raw / f"{part}-labels-idx1-ubyte"]
    if is_local_main() and not all(file.exists() for file in files):
        from torchvision.datasets import MNIST  # takes seconds to import

        download(MNIST, data_dir, f"{files[0].name} and {files[1].name} (unzipped) into {raw.resolve()}")
    barrier()
    return read_idx(files[0]).unsqueeze(1), read_idx(files[1]).long()


def read_cifar10(data_dir: str, training: bool) -> tuple[Tensor, Tensor]:
    """Images [N, 3, 32, 32] and labels [N] of CIFAR-10 from data_dir/cifar-10-batches-py, where torchvision puts it."""
    from torchvision.datasets import CIFAR10

    if is_local_main():
        download(CIFAR10, data_dir, f"{CIFAR10.filename} (unpacked) into {Path(data_dir).resolve()}")
    barrier()
    dataset = CIFAR10(data_dir, train=training)
    return torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(dataset.targets)


def download(dataset: Any, data_dir: str, files: str) -> None:
    """Download torchvision's `dataset` into data_dir unless it is there. Raises DataError if that fails."""
    try:
        dataset(data_dir, download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{dataset.__name__} is not in {Path(data_dir).resolve()} and could not be downloaded: {error}\n"
            f"Put {files}, or set data_loader.args.data_dir to the folder that has it."
        ) from error


def class_folders(folder: Path) -> list[str]:
    """Names of the class folders in `folder`, sorted."""
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []
    if not classes:
        raise DataError(
            f"No class folders in {folder.resolve()}. Put the images of each class into a folder of its name, such as "
            f"{folder / 'cat' / '1.jpg'}, or set data_loader.args.data_dir to the folder that has them."
        )
    return classes


def list_images(folder: Path, classes: list[str]) -> list[tuple[str, int]]:
    """(path, class number) of all images below `folder`, sorted by class, then path."""
    if unknown := sorted(set(class_folders(folder)) - set(classes)):
        raise DataError(
            f"{folder.resolve()} has classes that the training data does not have: {', '.join(unknown)}; remove these "
            f"folders, or add the classes to the training data"
        )
    samples = [
        (str(path), number)
        for number, name in enumerate(classes)
        for path in sorted((folder / name).rglob("*"))
        if path.suffix.lower() in IMAGE_SUFFIXES
    ]
    if not samples:
        raise DataError(f"No images ({', '.join(IMAGE_SUFFIXES)}) in the class folders of {folder.resolve()}")
    return samples
