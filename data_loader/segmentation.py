"""Segmentation: images and masks of the same names, cropped and mirrored together."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from data_loader import BaseDataLoader
from data_loader.engine.changes import log
from data_loader.engine.images.decode import ImageFile, pixels
from data_loader.engine.images.image_files import TEST, TRAIN, VALID, LeftOut, normal, readable, walk
from data_loader.engine.images.in_memory import IMAGENET_MEAN, IMAGENET_STD, NormalizeBatch
from data_loader.engine.paths import place
from data_loader.engine.unlabeled import unlabeled_files
from data_loader.transforms import RandomResizedCrop, Resize
from utils.errors import DataError, UsageError

IGNORED = 255  # pixels of this value in a mask belong to no class
MASK = re.compile(r"[-_](masks?|gt|labels?|seg)$", re.IGNORECASE)  # what may follow the image's name
SHOWN = 5  # files that an error lists
LOOKED_AT = 50  # masks that are checked for being of 0 and 255


class SegmentationDataLoader(BaseDataLoader):
    """Images and masks, data_dir/train/images/NAME.jpg and masks/NAME.png: [B, 3, size, size], int64 [B, size, size].

    `val` (`valid`, `validation`, `dev`) and `test` in the same way; images/train/ and masks/train/ work too, and so do
    images/ and masks/ alone, with validation_split. A mask may be called NAME_mask.png, too. Each pixel of a mask
    (gray, or a palette) is a class number, or 255 where it is to be ignored: give the loss ignore_index: 255.
    classes: their names or number; by default, 0 to the largest value in the training masks, which are all read.
    values: what stands for the classes 0, 1, ... in the masks, where it is not these numbers: [0, 255]. Others are
    ignored.
    Training sees random crops (at least `min_area` of it) and mirror images, evaluation the whole image, resized.
    mean, std: of the images' values, 0..1, to normalize by; the default is ImageNet's.
    predict: images without masks, for predict.py: files, folders, or a CSV file of file names.
    """

    def __init__(
        self,
        data_dir: str,
        batch_size: int = 16,
        training: bool = True,
        size: int = 256,
        min_area: float = 0.25,
        image_folder: str = "images",
        mask_folder: str = "masks",
        test_folder: str | None = None,
        classes: int | list[str] | None = None,
        values: list[int] | None = None,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
        facts: dict | None = None,
        predict: list[str] | None = None,
        **kwargs,
    ):
        folders = [Path(image_folder), Path(mask_folder)]
        test = (test_folder,) if test_folder else TEST
        root = place(data_dir)
        if predict is None:
            samples = find_pairs(root, folders, TRAIN if training else test, training)
        else:
            self.unlabeled = unlabeled_files(predict, readable())
            samples = [(path, "") for path in self.unlabeled.paths]
        names = class_names(classes, values, facts or {}, samples)
        whole = Resize((size, size))
        plain = ImagesAndMasks(samples, whole, len(names), values)
        crop = RandomResizedCrop((size, size), (min_area, 1.0), flip=0.5)
        dataset = ImagesAndMasks(samples, crop, len(names), values)
        valid = None
        if training and part_of(root, folders, VALID) is not None:
            valid = ImagesAndMasks(find_pairs(root, folders, VALID, False), whole, len(names), values)
        super().__init__(
            dataset if training else plain,
            batch_size,
            eval_dataset=plain,
            valid_dataset=valid,
            batch_transform=NormalizeWithMasks(mean, std),
            **kwargs,
        )
        self.facts = {"num_classes": len(names), "class_names": names}
        if values is not None:
            self.facts["mask_values"] = list(values)


class ImagesAndMasks(Dataset):
    """(image uint8 [3, H, W], mask uint8 [H, W]) of each of `samples` (path of the image, path of the mask, or "").

    transform: of torchvision's v2, called with both together.
    """

    samples_have_labels = False  # for balanced and stratify

    def __init__(self, samples: list[tuple[str, str]], transform: object, num_classes: int, values: list[int] | None):
        self.samples, self.transform, self.num_classes, self.values = samples, transform, num_classes, values

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        from torchvision import tv_tensors

        path, mask_path = self.samples[index]
        with ImageFile(path) as file:
            image = pixels(file.rgb())
        no_mask = torch.zeros(image.shape[1:], dtype=torch.uint8)
        mask = read_mask(mask_path, self.num_classes, self.values) if mask_path else no_mask
        if image.shape[1:] != mask.shape:
            raise ValueError(f"the image is {list(image.shape[1:])}, its mask {mask_path} is {list(mask.shape)}")
        image, mask = self.transform(tv_tensors.Image(image), tv_tensors.Mask(mask))  # type: ignore[operator]
        return image, mask


class NormalizeWithMasks(NormalizeBatch):
    """The same of images with masks, which become int64."""

    def __call__(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        images, masks = super().__call__(batch)
        return images, masks.long()


# --- files


def find_pairs(data_dir: Path, folders: Sequence[Path], names: Sequence[str], alone: bool) -> list[tuple[str, str]]:
    """(image, mask) of one part of the data, in the order of the images. alone: the data may have no parts."""
    found = part_of(data_dir, folders, names)
    if found is None and alone and part_of(data_dir, folders, (*VALID, *TEST)) is None:
        images, masks = (_inside(data_dir, str(folder)) for folder in folders)
        found = (images, masks) if images and masks else None
    if found is None:
        raise DataError(
            f"No {names[0]} images and masks in {data_dir.resolve()}; put them into {names[0]}/{folders[0]}/ and "
            f"{names[0]}/{folders[1]}/ there, or set data_loader.args.data_dir to the folder that has them"
            + ("" if alone else "; data_loader.args.test_folder=val tests on the validation images instead")
        )
    left_out = LeftOut()
    files, named = ({_stem(path, folder): path for path in walk(folder, left_out)} for folder in found)
    with_mask = {MASK.sub("", stem): path for stem, path in named.items()} | named
    for stem, path in named.items():
        if with_mask[MASK.sub("", stem)] != path and MASK.sub("", stem) not in named:
            raise DataError(f"{path} and {with_mask[MASK.sub('', stem)]} are masks of one image; remove one of them")
    if lacking := [path for stem, path in files.items() if stem not in with_mask]:
        more = f", ... ({len(lacking):,} in all)" if len(lacking) > SHOWN else ""
        raise DataError(
            f"No mask in {found[1].resolve()} for {', '.join(lacking[:SHOWN])}{more}; a mask has its image's name, "
            f"such as {_stem(lacking[0], found[0])}.png"
        )
    if not files:
        raise DataError(f"No images in {found[0].resolve()}" + (f"; there are: {left_out}" if str(left_out) else ""))
    if unused := len(named) - len(files):
        left_out.reasons[f"masks in {found[1]} without an image"] += unused
    log.info(f"{found[0]}: {len(files):,} images with masks")
    left_out.report()
    return [(path, with_mask[stem]) for stem, path in files.items()]


def part_of(data_dir: Path, folders: Sequence[Path], names: Sequence[str]) -> tuple[Path, Path] | None:
    """The folders of images and masks of the part with one of these names; None if there is none."""
    for name in names:
        for layout in ("{part}/{kind}", "{kind}/{part}"):
            images, masks = (_inside(data_dir, layout.format(part=name, kind=folder)) for folder in folders)
            if images is not None and masks is not None:
                return images, masks
    return None


def _inside(folder: Path, path: str) -> Path | None:
    """The folder at this path inside of another, in upper or lower case; None if there is none."""
    if (folder / path).is_dir():
        return folder / path
    for name in Path(path).parts:
        names = {other.lower(): other for other in os.listdir(folder)} if folder.is_dir() else {}
        if name.lower() not in names:
            return None
        folder = folder / names[name.lower()]
    return folder if folder.is_dir() else None


def _stem(path: str, folder: Path) -> str:
    return normal(os.path.splitext(os.path.relpath(path, folder))[0])


def read_mask(path: str, num_classes: int, values: Sequence[int] | None) -> Tensor:
    """uint8 [H, W]: class numbers, and 255 for what is ignored. Raises ValueError for any other value."""
    mask = mask_values(path)
    if values is not None:
        found = np.full(mask.shape, IGNORED, np.uint8)
        for number, value in enumerate(values):
            found[mask == value] = number
        return torch.from_numpy(found)
    if (wrong := mask[(mask >= num_classes) & (mask != IGNORED)]).size:
        raise ValueError(
            f"{path} has the value {wrong.max()}, but there are {num_classes} classes, 0 to {num_classes - 1}, and "
            f"{IGNORED} for ignored pixels; set data_loader.args.classes, or values if other numbers stand for them"
        )
    return torch.from_numpy(mask.astype(np.uint8))


def mask_values(path: str) -> np.ndarray:
    """The numbers in a mask, int [H, W]; of an image with a palette, the numbers of its colors. Raises DataError for
    one that has several channels with different numbers."""
    try:
        with Image.open(path) as image:
            mask, mode = np.array(image), image.mode
    except (OSError, SyntaxError) as e:
        raise DataError(f"{path} cannot be read as a mask: {e}") from e
    wrong = ""
    if mask.ndim == 3:  # gray, but saved with transparency or with three equal channels
        colors = mask[..., : 1 if mode == "LA" else 3]
        mask = colors[..., 0]
        wrong = "colors" if (colors != mask[..., None]).any() else ""
    if mask.dtype.kind == "f" and not (np.isfinite(mask) & (mask % 1 == 0)).all():
        wrong = "fractions"
    if wrong:
        raise DataError(
            f"{path} is a mask of mode {mode} with {wrong}; give one channel with a class number for each pixel, or a "
            f"palette (mode L or P)"
        )
    return mask.astype(np.int64)


def class_names(
    classes: int | Sequence[str] | None, values: Sequence[int] | None, facts: dict, samples: Sequence[tuple[str, str]]
) -> list[str]:
    """The names of the classes; their numbers, if they have none."""
    if classes is None and "class_names" in facts:  # in testing, those of the training
        return facts["class_names"]
    if values is None and "class_names" not in facts:
        check_masks([path for _, path in samples[:: max(1, len(samples) // LOOKED_AT)]])
    if classes is None and values is not None:
        classes = len(values)
    count = len(classes) if isinstance(classes, (list, tuple)) else classes
    if values is not None and (len(values) != count or len(set(values)) != count):
        raise UsageError(f"data_loader: values is {values}, for {count} classes; give another value for each class")
    if isinstance(classes, (list, tuple)):
        return list(classes)
    if classes is None:
        classes = 1 + max(int(np.where(m == IGNORED, 0, m).max()) for m in (mask_values(path) for _, path in samples))
        log.info(
            f"the masks have {classes} classes, by their largest value; data_loader.args.classes={classes} saves "
            f"reading them all"
        )
    count = int(classes)  # type: ignore[arg-type]
    if not 1 <= count <= IGNORED:
        raise DataError(
            f"the masks have {count:,} classes, by `classes` or their largest value, but 1 to {IGNORED} fit, as "
            f"{IGNORED} stands for ignored pixels; give the values that stand for the classes: data_loader.args.values"
        )
    return [str(number) for number in range(count)]


def check_masks(paths: Sequence[str]) -> None:
    """Raises DataError for masks of 0 and 255 alone, where 255 would be ignored, and for JPEG, which changes both."""
    if jpeg := [path for path in paths if path.lower().endswith((".jpg", ".jpeg"))]:
        raise DataError(
            f"{jpeg[0]} is a mask in JPEG, which changes class numbers; save masks as PNG, or give the values that "
            f"stand for the classes, data_loader.args.values=[0,255] say (others are ignored)"
        )
    has_255 = False
    for path in paths:
        mask = mask_values(path)
        if ((mask != 0) & (mask != IGNORED)).any():
            return
        has_255 = has_255 or bool((mask == IGNORED).any())
    if has_255:
        raise DataError(
            f"the masks ({paths[0]}, ...) have no values but 0 and {IGNORED}, which stands for pixels to ignore; set "
            f"data_loader.args.values=[0,{IGNORED}] where it is a class, or values=[0,1] where it is not"
        )
