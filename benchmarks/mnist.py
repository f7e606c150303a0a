"""Time of one epoch of MNIST with the LeNet at batch 128: this trainer against a loop over tensors in memory.

    python -m benchmarks.mnist [--data-dir data/]

Random pixels serve as well as the real ones where there is no --data-dir. Interleaved in one process, after a warm-up;
medians over rounds, and ratios to `hand loop` of the same round. One thread.
"""

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F

import train
from data_loader import data_loaders
from model.model import MnistModel
from trainer import resume
from utils import config as configs
from utils.run import Run

SAMPLES, BATCH = 60_000, 128


def random_mnist(data_dir: str, training: bool) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (SAMPLES, 1, 28, 28), dtype=torch.uint8, generator=generator)
    return images, torch.randint(0, 10, (SAMPLES,), generator=generator)


def hand_loop(images: torch.Tensor, labels: torch.Tensor, steps: int) -> float:
    """What one writes by hand, normalised floats in memory and nothing else."""
    model = MnistModel()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    order = torch.randperm(len(images))
    start = time.perf_counter()
    for batch in order.split(BATCH)[:steps]:
        optimizer.zero_grad()
        loss = F.nll_loss(model(images[batch]), labels[batch])
        loss.backward()
        optimizer.step()
    return time.perf_counter() - start


def ours(data_dir: str, steps: int) -> float:
    """With metrics, logging, progress and TensorBoard; validation and saving are no part of the epoch."""
    config = configs.load(
        [
            {
                "name": "bench",
                "arch": "MnistModel",
                "data_loader": {"type": "MnistDataLoader", "args": {"data_dir": data_dir, "batch_size": BATCH}},
                "loss": "nll_loss",
                "metrics": ["accuracy", "top_k_acc"],
                "optimizer": {"type": "Adam", "args": {"lr": 1e-3}},
                "trainer": {"max_steps": steps, "save_period": 10**6, "verbosity": 1},
            }
        ]
    )
    with TemporaryDirectory() as folder:
        run = Run(Path(folder, "run"))
        trainer = train.build(config, run)
        resume.start(trainer)
        start = time.perf_counter()
        trainer.train()
        taken = time.perf_counter() - start
        run.close()
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=SAMPLES // BATCH)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.data_dir is None:
        setattr(data_loaders, "read_mnist", random_mnist)  # noqa: B010
    images, labels = data_loaders.read_mnist(args.data_dir or "", True)
    normalised = images.float().div(255).sub(0.1307).div(0.3081)
    hand, mine = [], []
    hand_loop(normalised, labels, 20)
    for _ in range(args.rounds):
        # ours changes the allocator of the process; the hand loop is to have the usual one
        hand.append(in_child(hand_loop, normalised, labels, args.steps))
        mine.append(in_child(ours, args.data_dir or "", args.steps))
    ratio = statistics.median(a / b for a, b in zip(mine, hand, strict=True))
    print(f"hand loop {statistics.median(hand):7.2f} s an epoch   1.00")
    print(f"ours      {statistics.median(mine):7.2f} s an epoch   {ratio:.2f}")


def in_child(function: Callable[..., float], *args: Any) -> float:
    """Run in a forked process, and return what it returned."""
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    child = context.Process(target=lambda: send.send(function(*args)))
    child.start()
    send.close()
    result = receive.recv()
    child.join()
    return result


if __name__ == "__main__":
    main()
