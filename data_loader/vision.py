"""Image data sets: MNIST, CIFAR-10, and image files in class folders or listed in a table."""

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data_loader import BaseDataLoader
from data_loader.engine.augmentation import Transform, of_image
from data_loader.engine.facts import class_facts
from data_loader.engine.images.cache import ImageCache, build
from data_loader.engine.images.decode import ImageFile
from data_loader.engine.images.image_files import Folders, Found, Sample, find_class_folders, readable
from data_loader.engine.images.image_table import Columns, Rows, Tables
from data_loader.engine.images.in_memory import IMAGENET_MEAN, IMAGENET_STD, ImageTensors, NormalizeBatch, read_gray
from data_loader.engine.paths import place
from data_loader.engine.unlabeled import Unlabeled, unlabeled_files
from data_loader.transforms import CenterCrop, RandomResizedCrop
from utils.errors import DataError, UsageError
from utils.process.group import barrier, is_local_main

CIFAR10_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


class MnistDataLoader(BaseDataLoader):
    """MNIST, [B, 1, 28, 28]; 60,000 digits to train and validate, 10,000 to test. Downloads it if it is missing.

    Usual transforms: [{type: RandomAffine, args: {rotate: 10, shift: 2, scale: 0.1, shear: 5}}]
    """

    def __init__(
        self,
        data_dir: str = "data/",
        batch_size: int = 128,
        training: bool = True,
        predict: list[str] | None = None,
        **kwargs,
    ):
        if predict is None:
            images, labels = read_mnist(data_dir, training)
        else:  # files of white digits on black, for predict.py
            self.unlabeled = unlabeled_files(predict, readable())
            images = read_gray(self.unlabeled.paths, 28)
            labels = torch.zeros(len(images), dtype=torch.int64)
        self.facts = class_facts([str(digit) for digit in range(10)])
        super().__init__(ImageTensors(images, labels, mean=(0.1307,), std=(0.3081,)), batch_size, **kwargs)


class Cifar10DataLoader(BaseDataLoader):
    """CIFAR-10, [B, 3, 32, 32]; 50,000 images to train and validate, 10,000 to test. Downloads it if it is missing.

    Usual transforms: [{type: RandomCropFlip, args: {crop: 4, flip: true}}]
    """

    def __init__(self, data_dir: str = "data/", batch_size: int = 128, training: bool = True, **kwargs):
        images, labels = read_cifar10(data_dir, training)
        dataset = ImageTensors(images, labels, mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.2435, 0.2616))
        self.facts = class_facts(CIFAR10_CLASSES)
        super().__init__(dataset, batch_size, **kwargs)


class _ImageFilesDataLoader(BaseDataLoader):
    """Images in files: what class folders and tables have in common."""

    def __init__(
        self,
        samples: list[Sample],
        valid: list[Sample] | None,
        columns: Mapping[str, list[Any]],
        data_dir: str,
        batch_size: int,
        training: bool,
        size: int = 224,
        min_area: float | None = None,
        cache: bool | str = False,
        cache_size: int | None = None,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
        transforms: list[Transform] | None = None,
        **kwargs,
    ):
        center = CenterCrop(size, resize=round(size / 0.875))
        cached = _Cached(cache if self.unlabeled is None else False, data_dir, cache_size or round(size / 0.875))
        super().__init__(
            ImageFiles(samples, center, cached, columns),
            batch_size,
            valid_dataset=ImageFiles(valid, center, cached) if valid else None,
            batch_transform=NormalizeBatch(mean, std, transforms),
            transforms=of_training(transforms, size, min_area) if training else None,
            **kwargs,
        )


class ImageFolderDataLoader(_ImageFilesDataLoader):
    """Images in class folders, data_dir/train/CLASS/, val/CLASS/ and test/CLASS/: [B, 3, size, size].

    Training sees random crops (at least `min_area`, by default 0.08, of the image) and mirror images, evaluation the
    center. `transforms` and `eval_transforms` replace these; they must make all images equally large.
    `val`, `valid`, `validation` or `dev` validates if it is there. A data_dir without `train` is one folder of class
    folders, to be used with validation_split. train_folder, valid_folder, test_folder: other names; '' leaves a
    valid_folder out.
    Classes are numbered in the order of the folder names in training, for testing too.
    cache: decode each image once, to a short side of `cache_size` (default: size / 0.875), into a file that is read
    from then on; true, or the folder for it (default: data_dir/.image_cache).
    mean, std: of the images' values, 0..1, to normalize by; the default is ImageNet's.
    predict: images without classes, for predict.py: files, folders, or a CSV file of file names.
    """

    def __init__(
        self,
        data_dir: str,
        batch_size: int = 64,
        training: bool = True,
        train_folder: str | None = None,
        valid_folder: str | None = None,
        test_folder: str | None = None,
        facts: dict | None = None,
        predict: list[str] | None = None,
        **kwargs,
    ):
        folders = Folders(place(data_dir), train_folder, valid_folder, test_folder)
        holds_out = bool(kwargs.get("validation_split") or kwargs.get("folds"))
        if predict is None:
            found = find_class_folders(folders, training, (facts or {}).get("class_names"), holds_out)
        else:
            self.unlabeled = unlabeled_files(predict, readable())
            found = Found((facts or {})["class_names"], without_target(self.unlabeled), None)
        self.facts = class_facts(found.classes)
        super().__init__(found.samples, found.valid, {}, data_dir, batch_size, training, **kwargs)


class ImageTableDataLoader(_ImageFilesDataLoader):
    """Images that a table lists, data_dir/TABLE: [B, 3, size, size], and their labels or numbers.

    table: CSV, the names of its columns in row 1. image: the column of file names in data_dir/image_folder, with or
    without `suffix` (any image's by default). What is to be learned is one of:
        label: a column of classes -> int64 [B].
        labels: columns of 0 and 1, or one column with several labels between `separator`s -> float32 [B, K].
        targets: columns of numbers -> float32 [B, K].
    valid_table, test_table: tables of their own; or split: a column that says train, valid or test.
    encoding: of the tables, such as cp949.
    Any column can be named in stratify, group and weights. The rest is as in ImageFolderDataLoader.
    """

    def __init__(
        self,
        data_dir: str,
        table: str = "train.csv",
        image: str = "image",
        label: str | None = None,
        labels: str | list[str] | None = None,
        targets: str | list[str] | None = None,
        image_folder: str = "",
        suffix: str = "",
        separator: str = " ",
        split: str | None = None,
        valid_table: str | None = None,
        test_table: str | None = None,
        encoding: str = "utf-8",
        batch_size: int = 64,
        training: bool = True,
        facts: dict | None = None,
        predict: list[str] | None = None,
        **kwargs,
    ):
        tables = Tables(place(data_dir), table, valid_table, test_table, split, encoding)
        columns = Columns(image, label, labels, targets, separator, place(Path(data_dir, image_folder)), suffix)
        if predict is None:
            found = tables.read(columns, training, (facts or {}).get("class_names"))
        else:
            self.unlabeled = unlabeled_files(predict, readable(), image, columns.folder, suffix, encoding)
            found = Rows(without_target(self.unlabeled), None, {}, facts or {})
        self.facts = found.facts
        super().__init__(found.samples, found.valid, found.columns, data_dir, batch_size, training, **kwargs)


def without_target(unlabeled: Unlabeled) -> list[Sample]:
    return [(path, 0) for path in unlabeled.paths]


def of_training(transforms: list[Transform] | None, size: int, min_area: float | None) -> list[Transform]:
    """What training images go through: the `transforms` of a config, by default a random crop, mirrored or not."""
    if transforms is None:
        return [RandomResizedCrop(size, (0.08 if min_area is None else min_area, 1.0), flip=0.5)]
    if min_area is not None:
        raise UsageError(
            f"data_loader: min_area is of the random crop that `transforms` replace; give it to a crop among them: "
            f"{{type: RandomResizedCrop, args: {{size: {size}, scale: [{min_area}, 1]}}}}"
        )
    return transforms


# --- data sets


class _Cached(NamedTuple):
    """Whether and where images are kept decoded. cache: true, or a folder (default: data_dir/.image_cache)."""

    cache: bool | str
    data_dir: str
    short: int  # side

    def of(self, samples: list[Sample]) -> ImageCache | None:
        if not self.cache:
            return None
        folder = place(Path(self.data_dir, ".image_cache") if self.cache is True else self.cache)
        return build([path for path, _ in samples], self.short, folder)


class ImageFiles(Dataset):
    """Reads each file of `samples` (path, target) upright and in RGB: (transform(image), target).

    The transform is called with an image that is not decoded yet (data_loader/engine/images/decode.py).
    columns: values per sample, by name, for stratify, group and weights.
    """

    transforms: list[Transform] | None = None  # those of a config

    def __init__(
        self,
        samples: list[Sample],
        transform: Callable[[Any], Any],
        cached: _Cached | None = None,
        columns: Mapping[str, list[Any]] | None = None,
    ):
        self.samples, self.transform, self.columns = samples, transform, columns or {}
        self.cache = cached.of(samples) if cached else None

    def with_transforms(self, transforms: Sequence[Transform]) -> "ImageFiles":
        """The same images, each passed through these transforms in its place."""
        other = copy.copy(self)
        other.transforms = list(transforms)
        other.transform = functools.partial(of_image, other.transforms)
        return other

    def column(self, name: str) -> list[Any]:
        return self.columns[name]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        path, target = self.samples[index]
        if self.cache is not None and (cached := self.cache.image(index)) is not None:
            return self.transform(cached), target
        with ImageFile(path) as image:
            return self.transform(image), target


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
    raw, part = place(data_dir) / "MNIST" / "raw", "train" if training else "t10k"
    files = [raw / f"{part}-images-idx3-ubyte", raw / f"{part}-labels-idx1-ubyte"]
    if is_local_main() and not all(file.exists() for file in files):
        from torchvision.datasets import MNIST  # takes seconds to import

        download(MNIST, str(place(data_dir)), f"{files[0].name} and {files[1].name} (unzipped) into {raw.resolve()}")
    barrier()
    return read_idx(files[0]).unsqueeze(1), read_idx(files[1]).long()


def read_cifar10(data_dir: str, training: bool) -> tuple[Tensor, Tensor]:
    """Images [N, 3, 32, 32] and labels [N] of CIFAR-10 from data_dir/cifar-10-batches-py, where torchvision puts it."""
    from torchvision.datasets import CIFAR10

    data_dir = str(place(data_dir))
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
