"""Samples a second from the input pipeline of MNIST: this loader against torchvision's, sample by sample.

    python -m benchmarks.input [--data-dir data/]

torchvision: `torchvision.datasets.MNIST` with ToTensor and Normalize, through torch's DataLoader. Batches of 128,
shuffled; nothing is computed with them. Without --data-dir, the images are random pixels, which are just as good here.
One thread per process, each row in a child process (ours sets the allocator as training does), interleaved; medians
over rounds, and ratios to `torchvision, 0 workers` of the same round.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.mnist import in_child, random_mnist
from data_loader.vision import MnistDataLoader
from trainer.engine.speed import backends

BATCH = 128


def rate(batches: Iterator[Any], count: int) -> float:
    """Samples/s over `count` batches (images, labels) after the first two."""
    for _ in range(2):
        next(batches)
    start = time.perf_counter()
    samples = sum(len(next(batches)[1]) for _ in range(count))
    return samples / (time.perf_counter() - start)


def torchvision(data_dir: str, workers: int) -> float:
    from torchvision import datasets, transforms

    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    data = datasets.MNIST(data_dir, transform=transform)
    return rate(iter(torch.utils.data.DataLoader(data, BATCH, shuffle=True, num_workers=workers)), 150)


def ours(data_dir: str, workers: int) -> float:
    backends.keep_memory()
    stream = MnistDataLoader(data_dir, BATCH, num_workers=workers).iter_steps(0)
    return rate((batch.data for batch in stream), 500 if workers else 5000)


def write(data_dir: Path) -> None:
    """Random pixels in the form of MNIST's training data."""
    raw = data_dir / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images, labels = random_mnist("", True)
    for tensor, name in ((images.squeeze(1), "images-idx3"), (labels.byte(), "labels-idx1")):
        header = bytes([0, 0, 8, tensor.ndim]) + b"".join(size.to_bytes(4, "big") for size in tensor.shape)
        for part in ("train", "t10k"):
            (raw / f"{part}-{name}-ubyte").write_bytes(header + tensor.numpy().tobytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        if args.data_dir is None:
            write(Path(folder))
        take_turns([(torchvision, 0), (torchvision, 2), (ours, 0), (ours, 2)], args.rounds, args.data_dir or folder)


def take_turns(rows: list[tuple[Callable[..., float], int]], rounds: int, folder: str, *more: Any) -> None:
    """Print the samples/s of each function(folder, workers, *more): medians, and ratios to the first one."""
    rates: list[list[float]] = [[] for _ in rows]
    for _ in range(rounds):
        for (function, workers), results in zip(rows, rates, strict=True):
            results.append(in_child(function, folder, workers, *more))
    for (function, workers), results in zip(rows, rates, strict=True):
        ratio = statistics.median(a / b for a, b in zip(results, rates[0], strict=True))
        name = f"{function.__name__}, {workers} workers"
        print(f"{name:22}  {statistics.median(results):9.0f} samples/s   {ratio:6.2f}")


if __name__ == "__main__":
    main()
