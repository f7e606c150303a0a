"""Time that the training loop is blocked by a save of 416 MB of state, over a plain copy into kept memory.

    python -m benchmarks.save

A model of 34.7 million weights, with Adam. copy: copies every tensor into memory that is kept from one save to the
next, and does nothing else. ours: `saving.save()`, from the check that everything is finite until the writing
thread starts; its first save, which allocates the memory, has a row of its own. torch.save: to a path, in the loop.
Interleaved in one process of one thread; medians over rounds, and ratios to `copy` of the same round. It also measures
how much slower steps are while the thread writes, syncs and reads back.
"""

import argparse
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

import train
from trainer.checkpoint import resume, state
from utils import config as configs
from utils.run_folder import Run

CONFIG: dict[str, Any] = {
    "name": "bench",
    "n_gpu": 0,
    "arch": {"type": "MLP", "args": {"in_features": 64, "hidden": [5880, 5832]}},
    "data_loader": {"type": "DigitsDataLoader", "args": {"batch_size": 32}},
    "loss": "cross_entropy",
    "metrics": ["accuracy"],
    "optimizer": {"type": "Adam", "args": {"lr": 1e-5}},
    "trainer": {"max_steps": 10**6, "verbosity": 0, "save_period": 10**6, "keep_last": 1, "tensorboard": False},
}


def tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value.detach()]
    if isinstance(value, dict):
        return [t for v in value.values() for t in tensors(v)]
    return [t for v in value for t in tensors(v)] if isinstance(value, (list, tuple)) else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", help="where the checkpoints go (default: TMPDIR)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory(prefix="save-", dir=args.folder) as folder:
        run = Run(Path(folder, "run"))
        trainer = train.build(configs.load([CONFIG]), run)
        resume.start(trainer)
        saving = trainer.saving
        assert saving is not None
        trainer.train_mode()
        stream = trainer.data_loader.iter_steps(0)

        def step() -> float:
            began = time.perf_counter()
            trainer.run_step(stream)
            return time.perf_counter() - began

        step()
        whole = tensors(state.collect(trainer))
        kept = [torch.zeros_like(t) for t in whole]
        size = sum(t.numel() * t.element_size() for t in whole)
        times: dict[str, list[float]] = {"copy": [], "ours": [], "torch.save": []}
        slower: list[float] = []
        first = 0.0
        for round_ in range(args.rounds + 1):
            quiet = statistics.median(step() for _ in range(5))
            began = time.perf_counter()
            for there, here in zip(kept, tensors(state.collect(trainer)), strict=True):
                there.copy_(here)
            copied = time.perf_counter()
            saving.save()
            blocked = time.perf_counter() - copied
            meanwhile = []
            while saving.checkpoints._thread.is_alive():
                meanwhile.append(step())
            saving.wait()
            started = time.perf_counter()
            torch.save(state.collect(trainer), Path(folder, "plain.pth"))
            saved = time.perf_counter() - started
            if round_ == 0:
                first = blocked
                continue
            for name, seconds in zip(times, (copied - began, blocked, saved), strict=True):
                times[name].append(seconds)
            slower.append(statistics.mean(meanwhile) / quiet)
        run.close()
        stream.close()

    print(f"{size / 1e6:.1f} MB of state")
    for name, taken in times.items():
        ratio = statistics.median(a / b for a, b in zip(taken, times["copy"], strict=True))
        print(f"{name:10} {statistics.median(taken) * 1e3:8.1f} ms   {ratio:.2f} of copy")
    print(f"ours, the first save: {first * 1e3:.1f} ms; steps take {statistics.median(slower):.2f} of their time while")
    print(f"the thread works (from {min(slower):.2f} to {max(slower):.2f} in {len(slower)} saves)")


if __name__ == "__main__":
    main()
