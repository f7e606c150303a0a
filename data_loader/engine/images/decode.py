"""Reads one image file: only when its pixels are needed; a large JPEG only at the resolution that is needed."""

import contextlib
import io
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from torch import Tensor

Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels of the upright image
ORIENTATION = 0x0112  # in EXIF
TURNS = {  # what makes an image of this orientation upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
MIRRORS_X, MIRRORS_Y = (2, 3, 6, 7), (3, 4, 7, 8)  # orientations whose left or top is a right or bottom in the file


class AnyImage(Protocol):
    """What a transform of files is called with: an image whose pixels are not decoded yet."""

    size: tuple[int, int]  # width, height

    def crop(self, box: Box, height: int, width: int) -> Tensor:
        """The part in `box`, resized: uint8 [3, height, width]."""

    def rgb(self) -> Image.Image:
        """The whole image."""


class ImageFile:
    """An image in a file, upright and in RGB; use it in a `with` statement.

    The pixels are those of torchvision's `ImageFolder`: Pillow's `convert("RGB")` of the first frame, which leaves out
    transparency. But images are turned upright (EXIF), and gray of 16 or 32 bits is scaled to 8 bits, not clipped.
    """

    def __init__(self, path: str | bytes) -> None:
        """path: of the file, or its content."""
        self.path = path
        self._file = _open(path)
        self._whole: Image.Image | None = None
        self._was_decoded = False
        self._orientation = 1
        if isinstance(self._file, JpegImageFile):
            self._orientation = _orientation(self._file)
            width, height = self._file.size
            self.size = (height, width) if self._orientation >= 5 else (width, height)
        else:  # other formats say only at their end how they are turned, and are always decoded whole
            self.size = self.rgb().size

    def __enter__(self) -> "ImageFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def rgb(self) -> Image.Image:
        if self._whole is None:
            self._whole = self._decoded(1)
        return self._whole

    def crop(self, box: Box, height: int, width: int) -> Tensor:
        """A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that is no less than the crop needs.

        That takes libjpeg down to a quarter of the time, and differs from the full decode by some 1% of the range.
        """
        left, top, right, bottom = box
        needed = min((right - left) / width, (bottom - top) / height)
        scale = next((s for s in (8, 4, 2) if s <= needed), 1)
        if scale == 1 or self._whole is not None:
            return crop(self.rgb(), box, height, width)
        small = self._decoded(scale)
        # The last column of pixels covers less than `scale` of the file's. In a mirrored image, it is the first one
        x = small.width - self.size[0] / scale if self._orientation in MIRRORS_X else 0.0
        y = small.height - self.size[1] / scale if self._orientation in MIRRORS_Y else 0.0
        end_x, end_y = min(right / scale + x, small.width), min(bottom / scale + y, small.height)
        part = (left / scale + x, top / scale + y, end_x, end_y)
        return pixels(small.resize((width, height), Image.Resampling.BILINEAR, box=part))

    def _decoded(self, scale: int) -> Image.Image:
        """The whole image at 1/scale of its size."""
        if self._was_decoded:  # Pillow decodes an open file once
            self._file.close()
            self._file = _open(self.path)
        self._was_decoded = True
        if scale > 1:
            width, height = self._file.size
            self._file.draft(None, (width // scale, height // scale))
        self._file.load()
        if not isinstance(self._file, JpegImageFile):
            self._orientation = _orientation(self._file)
        image = _to_rgb(self._file)
        turn = TURNS.get(self._orientation)
        return image if turn is None else image.transpose(turn)


def crop(image: Image.Image | AnyImage, box: Box, height: int, width: int) -> Tensor:
    """The part of an image in `box`, resized: uint8 [3, height, width]."""
    if not isinstance(image, Image.Image):
        return image.crop(box, height, width)
    part = image if box == (0, 0, *image.size) else image.crop(box)
    return resize(pixels(part), height, width)


def scaled(size: tuple[int, int], short: int) -> tuple[int, int]:
    """(width, height) of an image of this size when its short side is resized to `short`, as torchvision rounds it."""
    width, height = (side * short // min(size) for side in size)
    return width, height


def pixels(image: Image.Image) -> Tensor:
    """uint8 [3, H, W]"""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """[3, H, W] -> [3, height, width], smoothed where it gets smaller."""
    if image.shape[1:] == (height, width):
        return image
    by_pixel = image.permute(1, 2, 0).contiguous()[None].permute(0, 3, 1, 2)  # torch resizes these in half the time
    return F.interpolate(by_pixel, (height, width), mode="bilinear", antialias=True)[0].contiguous()


def _open(path: str | bytes) -> Image.Image:
    """Raises OSError with the path and the reason for what Pillow cannot read."""
    try:
        return Image.open(io.BytesIO(path) if isinstance(path, bytes) else path)
    except Image.UnidentifiedImageError as e:
        name, start = ("the file", path[:16]) if isinstance(path, bytes) else (path, _start(path))
        what = f"it begins with {start!r}" if start else "it is empty (0 bytes)"
        raise OSError(f"{name} is not an image that Pillow can read: {what}") from e


def _start(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(16)


def _orientation(image: Image.Image) -> int:
    """1 to 8; 1 is upright."""
    with contextlib.suppress(Exception):  # a camera's broken EXIF data makes no image unreadable
        found = image.getexif().get(ORIENTATION, 1)
        return found if found in TURNS else 1
    return 1


def _white(image: Image.Image, gray: np.ndarray) -> int:
    """The largest value that the pixels may have. 32 bits do not say it: then the smallest one that holds the image."""
    if image.mode.startswith("I;16") or image.format in ("PNG", "PPM"):
        return 65535
    scales = (1, 255, 65535) if image.mode == "F" else (255, 65535)
    found = [white for white in scales if gray.max() <= white]
    if not found or gray.min() < 0:
        raise ValueError(
            f"its 32-bit gray values are {gray.min():g} to {gray.max():g}; save it with 8 or 16 bits, or with values "
            f"of {', '.join(f'0..{white}' for white in scales)}"
        )
    return found[0]


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode[0] in "IF":  # more than 8 bits, which `convert` would clip at 255
        gray = np.nan_to_num(np.asarray(image).astype(np.float64))
        image = Image.fromarray(np.rint(gray * (255 / _white(image, gray))).astype(np.uint8))
    image.info.pop("transparency", None)  # RGB has no transparency; with it, `convert` warns
    return image.convert("RGB")
