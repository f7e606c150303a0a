"""Decoded images in one memory-mapped file: made once, then read by every epoch, run, worker and rank."""

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data_loader.engine.changes import log
from data_loader.engine.images.decode import Box, ImageFile, resize, scaled
from utils.errors import DataError
from utils.files import sync_folder

FORMAT = 1  # part of the key: a change of what is stored must raise it
SAMPLED = 200  # images that the size is estimated from
CHUNK = 256  # images that are decoded ahead of the writing
MARGIN = 1.1  # of the estimate


class CachedImage:
    """An image whose pixels are in a cache, smaller than in its file. Boxes are in pixels of the file, so
    transforms draw the same crops as without a cache."""

    def __init__(self, size: tuple[int, int], stored: np.ndarray) -> None:
        """size: (width, height) of the file. stored: uint8 [h, w, 3]."""
        self.size, self._stored = size, stored

    def rgb(self) -> Image.Image:
        """The whole image, as it is stored."""
        return Image.fromarray(self._stored)

    def crop(self, box: Box, height: int, width: int) -> Tensor:
        """The part in `box`, resized: uint8 [3, height, width]."""
        left, top, right, bottom = box
        h, w, _ = self._stored.shape
        if (w, h) != self.size:
            x, y = w / self.size[0], h / self.size[1]
            left, top = min(round(left * x), w - 1), min(round(top * y), h - 1)
            right, bottom = max(round(right * x), left + 1), max(round(bottom * y), top + 1)
        part = np.array(self._stored[top:bottom, left:right])  # a copy, as nothing may write into the file
        return resize(torch.from_numpy(part).permute(2, 0, 1), height, width)


class ImageCache:
    """Images of a list of files by index; make it with `build`."""

    changes_by_itself = ("_pixels", "_index")

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._index = np.load(folder / "index.npy")  # int64 [N, 5]: start, height, width; height, width of the file
        pixels = folder / "pixels.bin"  # the images one after the other, each uint8 [h, w, 3]
        # As a plain array: a slice of a memmap takes 10 us
        self._pixels = np.asarray(np.memmap(pixels, np.uint8, "r")) if pixels.stat().st_size else np.empty(0, np.uint8)

    def __reduce__(self) -> tuple[type, tuple[Path]]:
        """Workers open the file; pickle would send its contents."""
        return ImageCache, (self.folder,)

    def image(self, index: int) -> CachedImage | None:
        """None for a file that could not be read."""
        start, h, w, height, width = self._index[index].tolist()
        if h == 0:
            return None
        return CachedImage((width, height), self._pixels[start : start + h * w * 3].reshape(h, w, 3))


def build(paths: Sequence[str], short: int, folder: Path) -> ImageCache:
    """The cache of these files in `folder`, decoded to a short side of `short` (smaller ones are kept as they are).

    It is made if it is not there yet, or if a file has changed. Several processes may call this at once: one makes it,
    and the others wait. A kill leaves nothing that is used later. Raises DataError where it cannot be written.
    """
    from filelock import FileLock  # comes with torch

    place = folder / key_of(paths, short)
    if not (place / "index.npy").exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / f"{place.name}.lock"):  # the system frees it when its process ends
                if not (place / "index.npy").exists():
                    _make(paths, short, place)
        except OSError as e:
            raise DataError(
                f"The cache of decoded images cannot be written to {folder}: {e.strerror or e}; set "
                f"data_loader.args.cache to a folder that can be written, or to false"
            ) from e
    return ImageCache(place)


def key_of(paths: Sequence[str], short: int) -> str:
    """A name for the cache of these files as they are now: it differs with their paths, sizes and times."""
    digest = hashlib.blake2b(f"{FORMAT} {short}".encode(), digest_size=12)
    for path in paths:
        with contextlib.suppress(OSError):
            found = os.stat(path)
            line = f"\n{os.path.abspath(path)}\0{found.st_size}\0{found.st_mtime_ns}"
            digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _make(paths: Sequence[str], short: int, place: Path) -> None:
    began = time.monotonic()
    size = _check_space(paths, short, place.parent)
    log.info(f"caching {len(paths):,} images, about {size / 1e9:.3g} GB, short side {short}, in {place}")
    temporary = place.with_name(f"{place.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # left by a killed process: we hold the lock
    temporary.mkdir()
    try:
        index = _write(paths, short, temporary / "pixels.bin")
        np.save(temporary / "index.npy", index)
        shutil.rmtree(place, ignore_errors=True)
        os.replace(temporary, place)
        sync_folder(place.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    bad = int((index[:, 1] == 0).sum())
    unreadable = f"; {bad:,} could not be read, and are tried again when they are needed" if bad else ""
    log.info(f"cached in {time.monotonic() - began:.0f} seconds{unreadable}. To free the space, delete {place}")


def _write(paths: Sequence[str], short: int, path: Path) -> np.ndarray:
    """Write the pixels of all images; returns the index."""
    index, start, told = np.zeros((len(paths), 5), np.int64), 0, time.monotonic()
    with open(path, "wb") as file, ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes without the GIL
        for first in range(0, len(paths), CHUNK):
            chunk = paths[first : first + CHUNK]
            for i, found in enumerate(pool.map(lambda path: _decoded(path, short), chunk), first):
                if found is not None:
                    (width, height), stored = found
                    index[i] = start, *stored.shape[:2], height, width
                    start += file.write(stored.data)
            if time.monotonic() - told > 30:
                told = time.monotonic()
                log.info(f"cached {first + len(chunk):,} of {len(paths):,} images")
        file.flush()
        os.fsync(file.fileno())
    return index


def _decoded(path: str, short: int) -> tuple[tuple[int, int], np.ndarray] | None:
    """The size of an image, and its pixels as they are stored, uint8 [h, w, 3]; None if it cannot be read."""
    try:
        with ImageFile(path) as image:
            width, height = _stored_size(image.size, short)
            whole = image.crop((0, 0, *image.size), height, width)
            return image.size, np.ascontiguousarray(whole.permute(1, 2, 0).numpy())
    except Exception:  # reported when the sample is read
        return None


def _stored_size(size: tuple[int, int], short: int) -> tuple[int, int]:
    return scaled(size, short) if min(size) > short else size


def _check_space(paths: Sequence[str], short: int, folder: Path) -> float:
    """How many bytes the cache takes, estimated. Raises DataError if the disk has less."""
    sizes = []
    for path in paths[:: max(1, len(paths) // SAMPLED)]:
        with contextlib.suppress(Exception), ImageFile(path) as image:
            width, height = _stored_size(image.size, short)
            sizes.append(width * height * 3)
    needed = MARGIN * len(paths) * sum(sizes) / max(len(sizes), 1)
    if (free := shutil.disk_usage(folder).free) < needed:
        raise DataError(
            f"The cache of {len(paths):,} images needs about {needed / 1e9:.3g} GB, but {folder.resolve()} has "
            f"{free / 1e9:.3g} GB free; set data_loader.args.cache to a folder on a larger disk, cache_size (now "
            f"{short}) to a smaller short side, or cache to false"
        )
    return needed / MARGIN
