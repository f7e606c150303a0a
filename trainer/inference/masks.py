"""The masks that predict.py writes for images: PNG files of class numbers, of the images' own size, with colors."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.engine.evaluation.kinds import Name, task_of
from trainer.inference.journal import writing
from utils.errors import UsageError

TABLE = "predictions.csv"  # in the folder: which mask is of which image
LARGEST = 255  # value of a pixel in such a file
ORIENTATION, ON_ITS_SIDE = 0x0112, 5  # in EXIF; from which number on height and width change places


class Masks:
    """Writes a mask for each image; its rows name them.

    paths: of the images. values: what stands for the classes 0, 1, ... in the masks that the run was trained with;
    None: these numbers. Raises UsageError for outputs that are not classes of pixels.
    """

    header = ("id", "mask")

    def __init__(self, folder: Path, paths: Sequence[str], kind: Name, outputs: Tensor, values: Sequence[int] | None):
        count = outputs.shape[1]
        of_one = task_of(kind) == "labels" and count == 1
        if kind == "values" or (task_of(kind) == "labels" and not of_one):
            raise UsageError(
                f"the outputs of the model are {list(outputs.shape)}, {kind}; predict.py writes masks of one class for "
                f"each pixel. Call predict(RUN, FILES) from Python for others"
            )
        self.folder, self.paths = folder, paths
        self.files = mask_names(paths)
        for path, file in zip(paths, self.files, strict=True):
            if os.path.abspath(path) == os.path.abspath(folder / file):
                raise UsageError(f"--out {folder}: a mask would replace the image {path}; give another folder")
        self.values = np.array(range(max(count, 2)) if values is None else values)
        if self.values.max() > LARGEST:
            raise UsageError(f"data_loader: values is {list(values or ())}; masks with more than {LARGEST} do not fit")

    def rows(self, indices: Sequence[int], names: Sequence[str], outputs: Tensor) -> list[list[str]]:
        """Write the masks of probabilities [B, C, H, W], and name them."""
        for index, probabilities in zip(indices, outputs, strict=True):
            self._write(self.folder / self.files[index], classes_of(probabilities, _size(self.paths[index])))
        return [[name, self.files[index]] for index, name in zip(indices, names, strict=True)]

    def _write(self, path: Path, classes: np.ndarray) -> None:
        from PIL import Image

        image = Image.fromarray(self.values.astype(np.uint8)[classes])
        image.putpalette(palette())  # it holds numbers, and viewers show colors
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path, "PNG")


def classes_of(probabilities: Tensor, size: tuple[int, int]) -> np.ndarray:
    """The class of each pixel, uint8 [height, width] = size, of probabilities [C, H, W]; of one, of [1, H, W].

    The probabilities are resized, not the classes, which would leave steps. One class at a time, to save memory.
    """
    best = torch.full(size, -1.0)
    classes = torch.zeros(size, dtype=torch.uint8)
    scores = torch.cat([1 - probabilities, probabilities]) if len(probabilities) == 1 else probabilities
    for number, score in enumerate(scores.float()):
        resized = F.interpolate(score[None, None], size=size, mode="bilinear", antialias=True)[0, 0]
        classes[resized > best] = number
        best = torch.maximum(best, resized)
    return classes.numpy()


def mask_names(paths: Sequence[str]) -> list[str]:
    """NAME.png for each image, in the folders that they have below what all share; NAME.jpg.png for all of
    them if two would be one."""
    whole = [os.path.abspath(path) for path in paths]
    try:
        shared = os.path.commonpath([os.path.dirname(path) for path in whole])
        names = [Path(os.path.relpath(path, shared)) for path in whole]
    except ValueError:  # Windows: on several drives
        parts = [os.path.splitdrive(path) for path in whole]
        names = [Path(drive.strip(":\\/"), path.lstrip("\\/")) for drive, path in parts]
    stems = [name.with_suffix(".png").as_posix() for name in names]
    of_stem: dict[str, set[str]] = {}
    for stem, path in zip(stems, whole, strict=True):
        of_stem.setdefault(stem.lower(), set()).add(path)
    if any(len(images) > 1 for images in of_stem.values()):
        return [f"{name.as_posix()}.png" for name in names]
    return stems


def palette() -> list[int]:
    """Colors of 256 classes that are far apart, 0 black: those of PASCAL VOC, by the bits of the class number."""
    numbers, colors = np.arange(256), np.zeros((256, 3), dtype=np.int64)
    for bit in range(8):
        colors[:, bit % 3] |= (numbers >> bit & 1) << (7 - bit // 3)
    return colors.reshape(-1).tolist()


def _size(path: str) -> tuple[int, int]:
    """Height and width of an image, upright as loaders read it."""
    from PIL import Image

    with Image.open(path) as image:
        width, height = image.size
        with contextlib.suppress(Exception):  # a camera's broken EXIF data
            if image.getexif().get(ORIENTATION, 1) >= ON_ITS_SIDE:
                return width, height
    return height, width
