"""Time of one epoch of MNIST with the LeNet at batch 128: this trainer against a loop over tensors in memory.

    python -m benchmarks.mnist [--data-dir data/]

Without --data-dir, the images are random pixels, which are just as good here. The hand loop slices its batches from
memory and does nothing but the step; `tuned` is that loop with the trainer's own optimizations. The peers
(benchmarks/peers.py) log, draw and count as the trainer does. For `2020 costs`, each sample is a PIL image that
torchvision's transforms turn into a tensor, as in that template; the other peers get normalized batches from memory.
Each runs in a process of its own, forked from this one; they take turns. Medians over rounds, and ratios to `hand loop`
of the same round; the peers take part in fewer rounds, of fewer steps. One thread.
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
from PIL import Image
from torch.utils.data import Dataset

import train
from benchmarks import peers
from data_loader import vision
from model.model import MnistModel
from trainer.checkpoint import resume
from trainer.engine.speed import backends
from utils import config as configs
from utils.run_folder import Run

SAMPLES, BATCH = 60_000, 128


def random_mnist(data_dir: str, training: bool) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (SAMPLES, 1, 28, 28), dtype=torch.uint8, generator=generator)
    return images, torch.randint(0, 10, (SAMPLES,), generator=generator)


class Pictures(Dataset[Any]):
    """Single samples, made the way torchvision.datasets.MNIST and the usual transforms make them."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        from torchvision import transforms

        self.images, self.labels = images[:, 0].numpy(), labels
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


def hand_loop(images: torch.Tensor, labels: torch.Tensor, steps: int, tuned: bool = False) -> float:
    """A loop written by hand: normalized floats in memory, nothing else. tuned: with the memory format, allocator and
    optimizer that the trainer chooses, as fast as this model gets here without another compiler."""
    model = MnistModel()
    if tuned:
        backends.keep_memory()
        torch.set_flush_denormal(True)
        model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=tuned or None)
    order = torch.randperm(len(images))
    start = time.perf_counter()
    for batch in order.split(BATCH)[:steps]:
        optimizer.zero_grad()
        loss = F.nll_loss(model(images[batch]), labels[batch])
        loss.backward()
        optimizer.step()
    return time.perf_counter() - start


def ours(data_dir: str, steps: int) -> float:
    """With metrics, logging, progress bar and TensorBoard; without validation and saving."""
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
    parser.add_argument("--peer-rounds", type=int, default=2)
    parser.add_argument("--peer-steps", type=int, default=SAMPLES // BATCH // 2)
    parser.add_argument("--only", nargs="+", choices=["ours", *peers.PEERS], default=["ours", *peers.PEERS])
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.data_dir is None:
        setattr(vision, "read_mnist", random_mnist)  # noqa: B010
    images, labels = vision.read_mnist(args.data_dir or "", True)
    normalized = images.float().div(255).sub(0.1307).div(0.3081)
    task = peers.Task(MnistModel, F.nll_loss, normalized, labels, BATCH, side=28, samples=Pictures(images, labels))
    names = ["hand loop", "tuned", *peers.installed(args.only)]
    times: dict[str, list[float]] = {name: [] for name in names}  # a step
    hand_loop(normalized, labels, 20)
    for round_ in range(args.rounds):
        for name, taken in times.items():
            # ours changes the allocator of the process; the hand loop is to have the usual one
            if name == "hand loop":
                taken.append(in_child(hand_loop, normalized, labels, args.steps) / args.steps)
            elif name == "tuned":
                taken.append(in_child(hand_loop, normalized, labels, args.steps, True) / args.steps)
            elif name == "ours":
                taken.append(in_child(ours, args.data_dir or "", args.steps) / args.steps)
            elif round_ < args.peer_rounds:
                taken.append(in_child(peers.run, name, task, args.peer_steps))
    for name, taken in times.items():
        ratio = statistics.median(a / b for a, b in zip(taken, times["hand loop"], strict=False))
        print(f"{name:10} {statistics.median(taken) * SAMPLES / BATCH:7.2f} s an epoch   {ratio:.2f} of the hand loop")


def in_child(function: Callable[..., Any], *args: Any) -> Any:
    """Run a function in a forked process. Returns its result."""
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
