"""metrics.jsonl: one JSON object per line. However often a run is killed, each point appears exactly once.

A checkpoint holds the size that each file had when it was written, and what a full disk had not taken until then; a
resume cuts the files back to that.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from logger.append_only_file import AppendOnlyFile

FILE_NAME = "metrics.jsonl"


class MetricsJsonl:
    """Writes a point as one line: step, epoch, split, then the values; null for NaN and infinity, which JSON lacks."""

    def __init__(self, folder: Path) -> None:
        self.file = AppendOnlyFile(folder / FILE_NAME)

    def scalars(self, step: int, epoch: int, split: str, values: Mapping[str, float]) -> None:
        plain = {name: value if math.isfinite(value) else None for name, value in values.items()}
        line = json.dumps({"step": step, "epoch": epoch, "split": split, **plain}, allow_nan=False)
        self.file.write(line.encode() + b"\n")

    def files(self) -> list[AppendOnlyFile]:
        return [self.file]

    def cut(self, sizes: Mapping[str, int], unwritten: Mapping[str, bytes]) -> None:
        """Drop what was written after these sizes were taken, except the results of test.py, which no run repeats."""
        self.file.cut(sizes.get(FILE_NAME, 0), keep=_is_test)
        self.file.write(unwritten.get(FILE_NAME, b""))

    def points(self) -> list[dict[str, Any]]:
        """The points in the file; lines that are not points are skipped."""
        if not self.file.path.exists():
            return []
        found = [_point(line) for line in self.file.path.read_bytes().splitlines()]
        return [point for point in found if point]


def _point(line: bytes) -> dict[str, Any]:
    try:
        point = json.loads(line)
        return point if isinstance(point, dict) and {"step", "epoch", "split"} <= point.keys() else {}
    except (ValueError, RecursionError):
        return {}


def _is_test(line: bytes) -> bool:
    return _point(line).get("split") == "test"
