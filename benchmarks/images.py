"""Samples a second from folders of JPEG files, as training batches of 224 px: this loader against the usual.

    python -m benchmarks.images

usual: PIL and torchvision's v1 transforms (RandomResizedCrop, RandomHorizontalFlip, ToTensor, Normalize) through
torch's DataLoader. cached: ours with cache: true, from the second epoch on. The script makes the files, with as much
detail as photographs: small ones of 256 px, and large ones of 12 megapixels. Batches of 64, shuffled, or 16 of large
ones; nothing is computed with them. One thread per process, each row in a child process (ours sets the allocator as
training does), interleaved; medians over rounds, and ratios to the first row of the same round.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image

from benchmarks.input import rate, take_turns
from data_loader.engine.images.in_memory import IMAGENET_MEAN, IMAGENET_STD
from data_loader.vision import ImageFolderDataLoader
from trainer.engine.speed import backends

BATCH, SIDE, SIZE = 64, 256, 224
LARGE, LARGE_FILES, LARGE_BATCH = (4000, 3000), 16, 16


def photo(seed: int, size: tuple[int, int] = (SIDE, SIDE), fading: float = 0.6) -> Image.Image:
    """Shapes of all scales, finer ones fainter: about 20 KB as a JPEG of 256 px and quality 90, like a photograph."""
    numbers = np.random.default_rng(seed)
    pixels, side = np.zeros((size[1], size[0], 3), np.float32), 4
    while side <= max(size):
        for channel in range(3):
            shapes = Image.fromarray(numbers.normal(scale=side**-fading, size=(side, side)).astype(np.float32))
            pixels[..., channel] += np.asarray(shapes.resize(size, Image.Resampling.BICUBIC))
        side *= 2
    pixels = (pixels - pixels.mean()) / pixels.std() * 55 + 120
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def make(folder: Path, count: int) -> None:
    for i in range(count):
        path = folder / "train" / str(i % 10) / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo(i).save(path, quality=90)


def make_large(folder: Path) -> None:
    """About 3 MB each, as a phone's: parts of two larger images, which take their time to draw."""
    width, height = LARGE
    for i in range(LARGE_FILES):
        if i % 8 == 0:
            whole = photo(i, (width + 256, height + 256), fading=0.42)
        path = folder / "train" / str(i % 2) / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        left, top = 32 * (i % 8), 13 * (i % 8)
        whole.crop((left, top, left + width, top + height)).save(path, quality=90)


def usual(folder: str, workers: int, batches: int, batch: int = BATCH) -> float:
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    steps = [transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    transform = transforms.Compose([*steps, transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)])
    data = ImageFolder(f"{folder}/train", transform)
    loader = torch.utils.data.DataLoader(data, batch, shuffle=True, num_workers=workers, drop_last=True)
    return rate((batch for _ in range(10**6) for batch in loader), batches)


def ours(folder: str, workers: int, batches: int, batch: int = BATCH, cache: bool = False) -> float:
    backends.keep_memory()
    stream = ImageFolderDataLoader(folder, batch, num_workers=workers, size=SIZE, cache=cache).iter_steps(0)
    return rate((batch.data for batch in stream), batches)


def cached(folder: str, workers: int, batches: int) -> float:
    return ours(folder, workers, 3 * batches, cache=True)


def megabytes(folder: str) -> float:
    sizes = [path.stat().st_size for path in Path(folder, "train").rglob("*.jpg")]
    return sum(sizes) / len(sizes) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--files", type=int, default=512)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        make(Path(folder), args.files)
        print(f"{args.files} files of {SIDE} px, {megabytes(folder) * 1000:.0f} KB each; {args.rounds} rounds")
        ImageFolderDataLoader(folder, BATCH, size=SIZE, cache=True)  # the first epoch of the cached rows
        batches = args.files // BATCH
        take_turns([(usual, 0), (usual, 2), (ours, 0), (ours, 2), (cached, 0)], args.rounds, folder, batches)
        print("the same with 2 workers, and the cache")
        take_turns([(usual, 2), (cached, 2)], args.rounds, folder, batches)
    with TemporaryDirectory() as folder:
        make_large(Path(folder))
        print(f"{LARGE_FILES} files of 12 megapixels, {megabytes(folder):.1f} MB each")
        take_turns([(usual, 0), (ours, 0)], args.rounds, folder, 2, LARGE_BATCH)


if __name__ == "__main__":
    main()
