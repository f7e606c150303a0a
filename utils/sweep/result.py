"""The result of a run, read from its metrics.jsonl, in which each point appears once however often it was killed."""

import json
import math
from pathlib import Path
from typing import Any

Values = dict[str, float]


def normal(objective: str) -> str:
    """`min valid/loss` and `min train/loss` as `min val_loss` and `min loss`."""
    mode, _, name = objective.partition(" ")
    name = name.strip().removeprefix("train/")
    return f"{mode} val_{name.removeprefix('valid/')}" if name.startswith("valid/") else f"{mode} {name}"


def result(folder: Path, best_step: int) -> tuple[int, Values]:
    """The values of the validation after `best_step`; if that is 0, of the last; without any, the last of training."""
    found = points(folder, "valid") or points(folder, "train")
    if not found:
        return best_step, {}
    return next(((step, values) for step, values in found if step == best_step), found[-1])


def objective_points(folder: Path, name: str) -> list[tuple[int, Values]]:
    """Those so far that have a value of this name: of validations, or of training."""
    split = "valid" if name.startswith("val_") else "train"
    return [(step, values) for step, values in points(folder, split) if name in values]


def metrics_size(folder: Path) -> int:
    """Bytes of the metrics that a run has written so far."""
    try:
        return (folder / "metrics.jsonl").stat().st_size
    except OSError:
        return 0


def points(folder: Path, split: str) -> list[tuple[int, Values]]:
    """(step, values) of a split, under the names of an epoch's values: those of `valid` begin with val_."""
    try:
        lines = (folder / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    except OSError:
        return []
    found = []
    for line in lines:
        if not line.endswith(b"\n"):
            break  # it is being written
        point: dict[str, Any] = json.loads(line)
        if point.pop("split") == split:
            step, _ = point.pop("step"), point.pop("epoch")
            prefix = "val_" if split == "valid" else ""
            found.append((step, {prefix + k: math.nan if v is None else v for k, v in point.items()}))
    return found
