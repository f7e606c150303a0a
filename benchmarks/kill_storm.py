"""Kills one run again and again, at random and in the narrow windows of a save, and restarts it each time.

    python -m benchmarks.kill_storm --kills 300 --megabytes 100

At the end, its checkpoint must equal that of an undisturbed run, tensor for tensor, and its metrics.jsonl, byte for
byte. Results: benchmarks/RESULTS-faults.md
"""

import argparse
import mmap
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.utils.tensorboard
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from torch import Tensor, nn

import model.model
from tests.trainer.checkpoint.harness import Child, House, config, same_end
from trainer.checkpoint import writer
from trainer.checkpoint.writer import Checkpoints
from trainer.engine import stopping
from trainer.engine.base_trainer import BaseTrainer

BATCHES = 40  # an epoch
MAIN = ("start-up", "step", "validation", "copying the state", "the end")
WRITER = ("idle", "writing", "reading back", "renaming", "deleting the oldest")


class WideNet(nn.Module):
    """Two hidden layers with nearly all weights between them, so that a step is cheap for the model's size."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Dropout(0.2), nn.Linear(width, width), nn.ReLU()
        )
        self.last = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.layers(x))


def spec(megabytes: float) -> dict[str, Any]:
    width = int((megabytes * 1e6 / 12) ** 0.5)  # 12 bytes a weight: itself and Adam's two
    return config(
        arch={"type": "WideNet", "args": {"width": width}},
        optimizer__args__lr=1e-4,
        lr_scheduler={"type": "ExponentialLR", "args": {"gamma": 0.999}, "interval": "step"},
        callbacks=["EMA"] if megabytes < 10 else [],
        trainer__epochs=None,
        trainer__max_steps=10**6,  # how far it comes is seen at the end
        trainer__limit_batches=BATCHES,
        trainer__save_steps=3,
        trainer__valid_steps=20,
        trainer__monitor="min val_loss",
        trainer__log_steps=5,
        trainer__tensorboard=True,
    )


def watched(where: mmap.mmap) -> Callable[[], None]:
    """A patch that notes in shared memory what the run's main thread (0) and its writer (1) are doing."""

    def phase(slot: int, name: str, owner: Any, function: str) -> None:
        original = getattr(owner, function)
        value = (MAIN, WRITER)[slot].index(name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            before, where[slot] = where[slot], value
            try:
                return original(*args, **kwargs)
            finally:
                where[slot] = before

        setattr(owner, function, wrapped)

    def patch() -> None:
        vars(model.model)["WideNet"] = WideNet
        phase(0, "step", BaseTrainer, "train")
        phase(0, "validation", BaseTrainer, "evaluate")
        phase(0, "copying the state", Checkpoints, "save")
        phase(0, "the end", stopping, "stop")
        phase(1, "writing", torch, "save")
        phase(1, "reading back", writer, "verify")
        phase(1, "renaming", os, "replace")
        phase(1, "renaming", writer, "sync_folder")
        phase(1, "deleting the oldest", Path, "unlink")

    return patch


def strike(child: Child, where: mmap.mmap, dice: random.Random) -> int:
    """Kill the child at a random moment. Returns its exit code: 0 if it had finished before."""
    windows = ["start-up", "validation", "copying the state", *WRITER[1:]]
    aim = dice.choice(windows) if dice.random() < 0.5 else None  # half of the kills at just any time
    if aim == "start-up":
        time.sleep(dice.uniform(0, 0.5))
    else:
        while where[0] == 0 and not child.ended():
            time.sleep(0.002)
        time.sleep(dice.uniform(0.0, 1.0))
        slot = 0 if aim in MAIN else 1
        code = (MAIN, WRITER)[slot].index(aim) if aim else None
        end = time.monotonic() + 4
        while code is not None and where[slot] != code and time.monotonic() < end and not child.ended():
            time.sleep(0.00005)
        if aim == "writing":
            time.sleep(dice.uniform(0, 0.1))
    if not child.ended():
        child.signal(signal.SIGKILL)
    return child.wait().code


def events(run: Path) -> list[tuple[str, int]]:
    """(tag, step) of all values in the run's TensorBoard files, in TensorBoard's reading order."""
    found = []
    for path in sorted(run.glob("*/events.out.tfevents.*")):
        for event in EventFileLoader(str(path)).Load():
            found += [(f"{path.parent.name}/{value.tag}", event.step) for value in event.summary.value]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--megabytes", type=float, default=100, help="size of a checkpoint")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where the runs are; default: a temporary folder")
    parser.add_argument("--seed", type=int, default=0, help="of the dice that choose the moments")
    args = parser.parse_args()
    torch.set_num_threads(1)
    root = Path(tempfile.mkdtemp(prefix="kill-storm-", dir=args.folder))
    print(f"{args.kills} kills, checkpoints of {args.megabytes:g} MB every 3 steps, in {root.parent}")
    print(f"TMPDIR {tempfile.gettempdir()}, workers {args.workers}, seed {args.seed}", flush=True)

    dice, where = random.Random(args.seed), mmap.mmap(-1, 2)
    house = House(root / "storm", spec(args.megabytes))
    workers = f"data_loader.args.num_workers={args.workers}"
    phases: Counter[str] = Counter()
    began = time.monotonic()
    for kill in range(1, args.kills + 1):
        where[0] = where[1] = 0
        child = house.start(workers, patch=watched(where))
        code = strike(child, where, dice)
        if code != 137:
            print(f"kill {kill}: it had ended with {code} before\n{child.text()}")
            sys.exit(1)
        phases[f"{MAIN[where[0]]} / writer {WRITER[where[1]]}"] += 1
        child.output.unlink()
        if kill % 20 == 0:
            print(f"{kill:5} kills, {time.monotonic() - began:5.0f} s, step {house.steps[:1]}", flush=True)
    storm = time.monotonic() - began
    last = ((house.steps or [0])[0] // BATCHES + 1) * BATCHES
    house.train(workers, f"trainer.max_steps={last}", patch=watched(where), timeout=3600)
    whole = House(root / "whole", spec(args.megabytes))
    whole.train(f"trainer.max_steps={last}", "trainer.save_steps=1000000", patch=watched(where), timeout=3600)
    same_end(house, whole, but=("config", "logs"))
    points, expected = events(house.run), events(whole.run)
    points, expected = ([p for p in of if "samples_per_s" not in p[0]] for of in (points, expected))
    assert points == expected, "TensorBoard's points differ"
    before = house.files()
    reported = house.train(workers, f"trainer.max_steps={last}", patch=watched(where)).lines[-1]
    assert house.files() == before, "resuming the finished run changed something"

    print(f"\n{args.kills} SIGKILLs in {storm:.0f} s over {last} steps; it went on by itself each time")
    print(f"checkpoints of {(house.run / 'checkpoints/model_best.pth').stat().st_size / 1e6:.1f} MB; killed in:")
    for name, count in phases.most_common():
        print(f"{count:6}  {name}")
    print(f"checkpoint bit-equal, metrics.jsonl byte-equal, {len(points)} TensorBoard points once each and in order")
    print(f"resuming the finished run: exit 0, nothing touched: {reported}")
    shutil.rmtree(root)


if __name__ == "__main__":
    main()
