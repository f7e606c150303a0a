"""Time of one training step of a tiny MLP: this trainer with everything on, against loops written by hand.

    python -m benchmarks.step

plain: forward, cross-entropy, backward, Adam, over batches sliced from memory. by hand: plain plus the trainer's
features, written the usual way: progress bar, running loss and accuracy, TensorBoard every 50 steps, schedule,
clipping. tuned: the same, with the fastest known way for each piece. The peers, with the same features, are in
benchmarks/peers.py.

Each runs in a process of its own, forked from this one; they take turns. The figures are medians over rounds, and
ratios to `plain` of the same round. The peers take part in fewer rounds, of fewer steps.
"""

import argparse
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import TensorDataset
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

import train
from benchmarks import peers
from benchmarks.mnist import in_child
from data_loader import BaseDataLoader, data_loaders
from model.model import MLP
from trainer.checkpoint import resume
from utils import config as configs
from utils.run_folder import Run

BATCH, FEATURES, SAMPLES = 128, 64, 12_800


class InMemory(TensorDataset):
    uses_sample_keys = True  # it draws nothing

    def __getitems__(self, indices):
        at = torch.from_numpy(indices)
        return tuple(tensor.index_select(0, at) for tensor in self.tensors)


class BenchDataLoader(BaseDataLoader):
    def __init__(self, batch_size: int = BATCH):
        super().__init__(InMemory(X, Y), batch_size)


setattr(data_loaders, "BenchDataLoader", BenchDataLoader)  # noqa: B010 (where configs look for it)
X, Y = torch.randn(SAMPLES, FEATURES), torch.randint(0, 10, (SAMPLES,))


def model() -> nn.Module:
    return MLP(FEATURES, (128,))


def plain(steps: int) -> float:
    net, criterion = model(), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    start = 0.0
    for step in range(steps + WARM):
        if step == WARM:
            start = time.perf_counter()
        if step % (SAMPLES // BATCH) == 0:
            order = torch.randperm(SAMPLES)
        i = order[step % (SAMPLES // BATCH) * BATCH :][:BATCH]
        optimizer.zero_grad()
        loss = criterion(net(X[i]), Y[i])
        loss.backward()
        optimizer.step()
    return (time.perf_counter() - start) / steps


def by_hand(steps: int) -> float:
    net, criterion = model(), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps + WARM)
    start = 0.0
    with tempfile.TemporaryDirectory() as folder, SummaryWriter(folder) as writer:
        total, correct, n = 0.0, 0, 0
        bar = tqdm(total=steps + WARM, file=sys.stderr)
        for step in range(steps + WARM):
            if step == WARM:
                start = time.perf_counter()
            if step % (SAMPLES // BATCH) == 0:
                order = torch.randperm(SAMPLES)
            i = order[step % (SAMPLES // BATCH) * BATCH :][:BATCH]
            optimizer.zero_grad()
            output = net(X[i])
            loss = criterion(output, Y[i])
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item() * len(i)
            correct += (output.argmax(1) == Y[i]).sum().item()
            n += len(i)
            bar.update()
            if step % 50 == 0:
                writer.add_scalar("train/loss", total / n, step)
                writer.add_scalar("train/accuracy", correct / n, step)
                bar.set_postfix(loss=total / n, accuracy=correct / n)
        taken = (time.perf_counter() - start) / steps
    return taken


def tuned(steps: int) -> float:
    """`by hand`, with the fastest known way for each piece; without what a resume needs, and without NaN checks."""
    net, criterion = model(), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
    parameters = list(net.parameters())
    start, losses, hits = 0.0, list[Any](), list[Any]()
    with tempfile.TemporaryDirectory() as folder, SummaryWriter(folder) as writer:
        bar = tqdm(total=steps + WARM, file=sys.stderr)
        for step in range(steps + WARM):
            if step == WARM:
                start = time.perf_counter()
            if step % (SAMPLES // BATCH) == 0:
                order = torch.randperm(SAMPLES)
            i = order[step % (SAMPLES // BATCH) * BATCH :][:BATCH]
            y = Y.index_select(0, i)
            for p in parameters:
                p.grad = None
            output = net(X.index_select(0, i))
            loss = criterion(output, y)
            loss.backward()
            gradients = [p.grad for p in parameters if p.grad is not None]
            norm = math.hypot(*(n.item() for n in torch._foreach_norm(gradients)))
            if norm > 1.0:
                torch._foreach_mul_(gradients, 1.0 / norm)
            optimizer.step()
            optimizer.param_groups[0]["lr"] = 1e-3 * 0.5 * (1 + math.cos(math.pi * step / (steps + WARM)))
            losses.append(loss.detach())
            hits.append(output.detach().argmax(1) == y)
            bar.update()
            if step % 50 == 49:
                writer.add_scalar("train/loss", torch.stack(losses).mean().item(), step)
                writer.add_scalar("train/accuracy", torch.cat(hits).float().mean().item(), step)
                losses.clear()
                hits.clear()
        return (time.perf_counter() - start) / steps


def config_of(steps: int) -> dict[str, Any]:
    """The config of a run with everything on."""
    return {
        "name": "bench",
        "arch": {"type": "MLP", "args": {"in_features": FEATURES, "hidden": [128]}},
        "data_loader": {"type": "BenchDataLoader"},
        "loss": "CrossEntropyLoss",
        "metrics": ["accuracy"],
        "optimizer": {"type": "Adam", "args": {"lr": 1e-3}},
        "lr_scheduler": {"type": "WarmupCosineLR"},
        "trainer": {"max_steps": steps, "clip_grad_norm": 1.0, "verbosity": 2, "save_period": 10**6},
    }


def ours(steps: int) -> float:
    config = configs.load([config_of(steps + WARM)])
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder, "run"))
        trainer = train.build(config, run)
        resume.start(trainer)
        run_step = trainer.run_step
        times: list[float] = []

        def timed(stream: Any, log_due: bool) -> dict[str, float]:
            if trainer.step == WARM:
                times.append(time.perf_counter())
            rates = run_step(stream, log_due)
            if trainer.step == steps + WARM:
                times.append(time.perf_counter())
            return rates

        setattr(trainer, "run_step", timed)  # noqa: B010
        trainer.train()
        run.close()
    return (times[1] - times[0]) / steps


OWN: dict[str, Callable[[int], float]] = {"plain": plain, "by hand": by_hand, "tuned": tuned, "ours": ours}
TASK = peers.Task(model, nn.CrossEntropyLoss(), X, Y, BATCH, side=8, clip=1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--peer-rounds", type=int, default=3)
    parser.add_argument("--peer-steps", type=int, default=500)
    parser.add_argument("--only", nargs="+", choices=[*OWN, *peers.PEERS], default=[*OWN, *peers.PEERS])
    args = parser.parse_args()
    torch.set_num_threads(1)
    names = [name for name in (*OWN, *peers.PEERS) if name in args.only or name == "plain"]
    times: dict[str, list[float]] = {name: [] for name in peers.installed(names)}
    for round_ in range(args.rounds):
        for name, taken in times.items():
            if name in OWN:
                taken.append(in_child(OWN[name], args.steps))
            elif round_ < args.peer_rounds:
                taken.append(in_child(peers.run, name, TASK, args.peer_steps))
    for name, taken in times.items():
        ratio = statistics.median(a / b for a, b in zip(taken, times["plain"], strict=False))
        print(f"{name:10} {statistics.median(taken) * 1e6:8.1f} us a step   {ratio:.2f} of plain")


WARM = 50

if __name__ == "__main__":
    main()
