"""Samples a second from a folder of JPEG files of 256 px, as training batches of 224 px: this loader against the usual.

    python -m benchmarks.images

usual: PIL and torchvision's v1 transforms (RandomResizedCrop, RandomHorizontalFlip, ToTensor, Normalize) through
torch's DataLoader. The script makes the files, with as much detail as photographs. Batches of 64, shuffled; nothing is
computed with them. One thread per process, each row in a child process (ours sets the allocator as training does),
interleaved; medians over rounds, and ratios to `usual, 0 workers` of the same round.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image

from benchmarks.input import rate, take_turns
from data_loader.vision import IMAGENET_MEAN, IMAGENET_STD, ImageFolderDataLoader
from trainer.engine import backends

BATCH, SIDE, SIZE = 64, 256, 224


def photo(seed: int) -> Image.Image:
    """Shapes of all scales, finer ones fainter: about 20 KB as a JPEG of quality 90, like a photograph."""
    numbers = np.random.default_rng(seed)
    pixels, side = np.zeros((SIDE, SIDE, 3), np.float32), 4
    while side <= SIDE:
        for channel in range(3):
            shapes = Image.fromarray(numbers.normal(scale=side**-0.6, size=(side, side)).astype(np.float32))
            pixels[..., channel] += np.asarray(shapes.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
        side *= 2
    pixels = (pixels - pixels.mean()) / pixels.std() * 55 + 120
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def make(folder: Path, count: int) -> None:
    for i in range(count):
        path = folder / "train" / str(i % 10) / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo(i).save(path, quality=90)


def usual(folder: str, workers: int, batches: int) -> float:
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    steps = [transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    transform = transforms.Compose([*steps, transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)])
    data = ImageFolder(f"{folder}/train", transform)
    loader = torch.utils.data.DataLoader(data, BATCH, shuffle=True, num_workers=workers, drop_last=True)
    return rate((batch for _ in range(10**6) for batch in loader), batches)


def ours(folder: str, workers: int, batches: int) -> float:
    backends.keep_memory()
    stream = ImageFolderDataLoader(folder, BATCH, num_workers=workers, size=SIZE).iter_steps(0)
    return rate((batch.data for batch in stream), batches)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--files", type=int, default=1024)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        make(Path(folder), args.files)
        kilobytes = sum(path.stat().st_size for path in Path(folder).rglob("*.jpg")) / args.files / 1000
        print(f"{args.files} files of {SIDE} px, {kilobytes:.0f} KB each; {args.rounds} rounds")
        rows = [(usual, 0), (usual, 2), (ours, 0), (ours, 2)]
        take_turns(rows, args.rounds, folder, args.files // BATCH)


if __name__ == "__main__":
    main()
