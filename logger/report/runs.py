"""Reads a run's folder: config, curves, best and last values, time. Reads text files only, no torch."""

import contextlib
import json
import math
import os
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from logger.flat import flat
from utils.config import files
from utils.errors import UsageError

SIGNS_OF_A_RUN = ("config.yaml", "metrics.jsonl", "log.txt")
DEPTH = 4  # of run folders below the folder that is given: saved/NAME/SWEEP/RUN
NO_VALUES = ("step", "epoch", "split")
SPEED = re.compile(r"epoch .*  ([\d,]+) samples/s")
Point = dict[str, Any]
Curve = list[tuple[int, float]]


class BrokenRun(Exception):
    """This folder cannot be read as a run; says why."""


@dataclass
class Run:
    """One run, read once."""

    folder: Path
    config: dict[str, Any]  # flat: {"trainer.epochs": 15}
    points: dict[str, list[Point]]  # of train, valid, test
    seconds: float = 0.0
    speed: float | None = None  # samples per second in training
    finished: bool = False
    notes: list[str] = field(default_factory=list)  # what could not be read of it

    @property
    def name(self) -> str:
        return str(self.config.get("name", self.folder.parent.name))

    @property
    def step(self) -> int:
        """The last step that a point was written at."""
        return max((point["step"] for split in ("train", "valid") for point in self.points.get(split, [])), default=0)

    def monitor(self) -> tuple[str, str]:
        """(`max` or `min`, name) of what chooses its best model; without one, the validation's or training's loss."""
        mode, _, name = str(self.config.get("trainer.monitor", "off")).partition(" ")
        if mode in ("max", "min") and name:
            return mode, re.sub("^valid/", "val_", name.strip().removeprefix("train/"))  # as in old configs
        return "min", "val_loss" if self.curve("val_loss") else "loss"

    def curve(self, name: str, per_epoch: bool = True) -> Curve:
        """(step, value) of `val_NAME`, `test_NAME` or a training value, which is averaged over each epoch or not."""
        for prefix, split in (("val_", "valid"), ("test_", "test")):
            if name.startswith(prefix):
                return _values(self.points.get(split, []), name.removeprefix(prefix))
        points = self.points.get("train", [])
        return _epoch_means(points, name) if per_epoch else _values(points, name)

    def best(self, mode: str, name: str) -> tuple[float, int] | None:
        """The best value and the first step that had it."""
        choose = max if mode == "max" else min
        return choose(((value, step) for step, value in self.curve(name)), key=lambda pair: pair[0], default=None)

    def last(self, name: str) -> float | None:
        curve = self.curve(name)
        return curve[-1][1] if curve else None

    def names(self) -> list[str]:
        """All that it logged: loss, accuracy, val_loss, test_loss, ..."""
        prefixes = {"train": "", "valid": "val_", "test": "test_"}
        found: dict[str, None] = {}
        for split, prefix in prefixes.items():
            for point in self.points.get(split, []):
                names = [k for k, value in point.items() if k not in NO_VALUES and not isinstance(value, (dict, list))]
                found |= dict.fromkeys(prefix + name for name in names)
        return list(found)


def _values(points: Sequence[Point], name: str) -> Curve:
    """NaN and infinity, which the file has as null, are left out."""
    found = [(point["step"], point.get(name)) for point in points]
    return [(step, float(value)) for step, value in found if isinstance(value, (int, float)) and math.isfinite(value)]


def _epoch_means(points: Sequence[Point], name: str) -> Curve:
    """A point is the mean since the point before it: weighted by its steps, they give the epoch's mean."""
    sums: dict[int, tuple[int, float, int]] = {}  # of each epoch: its last step, sum, steps
    before = 0
    for point in points:
        value, steps, before = point.get(name), point["step"] - before, point["step"]
        if isinstance(value, (int, float)):
            _, total, count = sums.get(point["epoch"], (0, 0.0, 0))
            sums[point["epoch"]] = (point["step"], total + value * steps, count + steps)
    return [(step, total / count) for step, total, count in sums.values() if count]


def find(folders: Sequence[Path]) -> tuple[list[Run], dict[Path, str]]:
    """The runs in these folders, and the folders that are broken, with the reason. UsageError: there is none."""
    runs, broken = [], dict[Path, str]()
    once: dict[Path, Path] = {}
    for given in folders:
        for folder in _run_folders(given, given.resolve()):
            once.setdefault(folder.resolve(), folder)
    for folder in once.values():
        try:
            runs.append(read(folder))
        except BrokenRun as e:
            broken[folder] = str(e)
    if not runs:
        why = "".join(f"\n  {folder}: {reason}" for folder, reason in broken.items())
        raise UsageError(
            f"{', '.join(map(str, folders))}: no run there; give a run's folder, or one that holds runs, such as "
            f"saved/NAME or saved{why}"
        )
    return runs, broken


def _run_folders(folder: Path, root: Path, depth: int = DEPTH) -> Iterator[Path]:
    """root: where it began; a link to a folder in there would show its runs twice."""
    if any((folder / name).is_file() for name in SIGNS_OF_A_RUN):
        yield folder
    elif depth and folder.is_dir():
        for child in sorted(folder.iterdir()):
            if not (child.is_symlink() and Path(os.path.realpath(child)).is_relative_to(root)):
                yield from _run_folders(child, root, depth - 1)


def read(folder: Path) -> Run:
    """Raises BrokenRun. A line that is only half written, as of a run that trains, is left out."""
    try:
        found = yaml.load((folder / "config.yaml").read_text(encoding="utf-8"), files.Loader)
    except FileNotFoundError:
        raise BrokenRun("it has no config.yaml") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
        raise BrokenRun(f"config.yaml cannot be read: {' '.join(str(e).split())}") from e
    if not found or not isinstance(found, Mapping):
        raise BrokenRun("config.yaml is empty or no mapping")
    run = Run(folder, flat(found, number_lists=False), {})
    run.points, wrong = _points(folder / "metrics.jsonl")
    if wrong:
        run.notes.append(f"metrics.jsonl: {wrong} lines cannot be read and are left out")
    _read_log(run)
    return run


def _points(path: Path) -> tuple[dict[str, list[Point]], int]:
    """The points of each split, and the number of lines that are none."""
    points: dict[str, list[Point]] = {}
    try:
        lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last line end is half a line
    except OSError:
        return {}, 0
    wrong = 0
    for line in lines:
        try:
            point = json.loads(line)
            if not isinstance(point["step"], int) or not isinstance(point["epoch"], int):
                raise TypeError
            points.setdefault(point["split"], []).append(point)
        except (ValueError, KeyError, TypeError):
            wrong += 1
    return points, wrong


def _read_log(run: Run) -> None:
    """Time, speed and whether it finished: each start of the run writes its own part of log.txt."""
    try:
        lines = (run.folder / "log.txt").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        run.notes.append("log.txt cannot be read: no time and speed")
        return
    speeds, began, ended, own = [], 0.0, 0.0, 0.0
    for line in lines:
        stamp, text = _stamped(line)
        if stamp is None:
            continue
        if text.startswith(("training in ", "continuing in ")):
            run.seconds += own or (ended - began if began else 0.0)
            began, own, run.finished = stamp, 0.0, False
        elif text.startswith("time: ") and (found := re.match(r"time: ([\d,.]+) s", text)):
            own = float(found[1].replace(",", ""))
        elif text.startswith("finished at step"):
            run.finished = True
        elif speed := SPEED.match(text):
            speeds.append(float(speed[1].replace(",", "")))
        ended = stamp
    run.seconds += own or (ended - began if began else 0.0)
    run.speed = statistics.median(speeds) if speeds else None


def _stamped(line: str) -> tuple[float | None, str]:
    """When a line of log.txt was written, and its text."""
    if line[:2] == "20" and line[19:21] == "  ":
        with contextlib.suppress(ValueError):
            return datetime.fromisoformat(line[:19]).timestamp(), line[21:]
    return None, line
