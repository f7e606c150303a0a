"""Where values go: metrics.jsonl and TensorBoard. After any number of kills each point stands there exactly once.

A checkpoint holds the size that each file had when it was written; a resume cuts the files back to that.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

METRICS = "metrics.jsonl"


class JsonLines:
    """metrics.jsonl: one object a line: step, epoch, split, then the values."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / METRICS
        self._file: IO[bytes] | None = None

    def scalars(self, step: int, epoch: int, split: str, values: Mapping[str, float]) -> None:
        if self._file is None:
            self._file = open(self.path, "ab")  # noqa: SIM115 (open for the whole run)
        line = json.dumps({"step": step, "epoch": epoch, "split": split, **values})
        self._file.write(line.encode() + b"\n")
        self._file.flush()

    def sizes(self) -> dict[str, int]:
        return {METRICS: self.path.stat().st_size if self.path.exists() else 0}

    def cut(self, sizes: Mapping[str, int]) -> None:
        """Drop what was written after these sizes were taken, except results of test.py, which belong to no step."""
        self.close()
        if not self.path.exists():
            return
        data = self.path.read_bytes()
        kept = data[: sizes.get(METRICS, 0)]
        later = [line for line in data[len(kept) :].splitlines(keepends=True) if _is_test(line)]
        if data != (whole := kept + b"".join(later)):
            self.path.write_bytes(whole)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class TensorBoard:
    """TensorBoard event files: scalars under split/name with the step as x."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer: Any = None

    def scalars(self, step: int, epoch: int, split: str, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(f"{split}/{name}", value, step)

    def image(self, name: str, picture: Any, step: int) -> None:
        self.writer.add_image(name, picture, step)

    @property
    def writer(self) -> Any:
        """torch's SummaryWriter, for whatever else you want to write."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter  # takes a second to import

            self._writer = SummaryWriter(str(self.folder))
        return self._writer

    def sizes(self) -> dict[str, int]:
        if self._writer is not None:
            self._writer.flush()
        return {path.name: path.stat().st_size for path in self.folder.glob("events.out.tfevents.*")}

    def cut(self, sizes: Mapping[str, int]) -> None:
        self.close()
        for path in self.folder.glob("events.out.tfevents.*"):
            size = sizes.get(path.name, 0)
            if size == 0:
                path.unlink()
            elif path.stat().st_size > size:
                with open(path, "r+b") as file:
                    file.truncate(size)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _is_test(line: bytes) -> bool:
    try:
        return bool(json.loads(line)["split"] == "test") and line.endswith(b"\n")
    except (ValueError, KeyError, TypeError):
        return False
