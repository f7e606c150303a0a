"""metrics.jsonl: one JSON object per line. However often a run is killed, each point appears exactly once.

A checkpoint holds the size that each file had when it was written, and what a full disk had not taken until then; a
resume cuts the files back to that.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

from logger.append_only_file import AppendOnlyFile
from logger.console import log
from utils.files import write_atomic

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
        path, size = self.file.path, sizes.get(FILE_NAME, 0)
        if self.file.size < size:
            log.warning(
                f"{path}: {size - self.file.size} bytes that the checkpoint knows are missing, and the points in them"
            )
            size = _size_of_complete_lines(path)
        if path.exists():
            data = path.read_bytes()
            tests = b"".join(line for line in data[size:].splitlines(keepends=True) if _is_test(line))
            if not tests:
                os.truncate(path, size)
            elif data[size:] != tests:
                write_atomic(path, data[:size] + tests)  # a kill at any moment leaves the old or the new file
        self.file.write(unwritten.get(FILE_NAME, b""))


def _size_of_complete_lines(path: Path) -> int:
    return path.read_bytes().rfind(b"\n") + 1 if path.exists() else 0


def _is_test(line: bytes) -> bool:
    try:
        return bool(json.loads(line)["split"] == "test") and line.endswith(b"\n")
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
