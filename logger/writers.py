"""Where values go: metrics.jsonl and TensorBoard. After any number of kills each point stands there exactly once.

A checkpoint holds the size that each file had when it was written, and what a full disk had not taken until then; a
resume cuts the files back to that.
"""

import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from logger.appended import Appended
from logger.logger import log
from utils.run import write_atomic

METRICS = "metrics.jsonl"


class JsonLines:
    """metrics.jsonl: one object a line: step, epoch, split, then the values."""

    def __init__(self, folder: Path) -> None:
        self.file = Appended(folder / METRICS)

    def scalars(self, step: int, epoch: int, split: str, values: Mapping[str, float]) -> None:
        line = json.dumps({"step": step, "epoch": epoch, "split": split, **values})
        self.file.write(line.encode() + b"\n")

    def files(self) -> list[Appended]:
        return [self.file]

    def cut(self, sizes: Mapping[str, int], unwritten: Mapping[str, bytes]) -> None:
        """Drop what was written after these sizes were taken, except results of test.py, which belong to no step."""
        path, size = self.file.path, sizes.get(METRICS, 0)
        if self.file.size < size:
            log.warning(f"{path}: {size - self.file.size} bytes are gone since the checkpoint: points are missing")
            size = _whole_lines(path)
        if path.exists():
            whole = path.read_bytes()
            tests = b"".join(line for line in whole[size:].splitlines(keepends=True) if _is_test(line))
            if not tests:
                os.truncate(path, size)
            elif whole[size:] != tests:
                write_atomic(path, whole[:size] + tests)  # a kill in between must not cost either
        self.file.write(unwritten.get(METRICS, b""))


class TensorBoard:
    """TensorBoard event files: scalars under split/name with the step as x. A new file at each start."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._records: Any = None
        self._files: list[Appended] = []

    def scalars(self, step: int, epoch: int, split: str, values: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        points = [Summary.Value(tag=f"{split}/{name}", simple_value=value) for name, value in values.items()]
        self.write(step, Summary(value=points))

    def image(self, name: str, picture: Any, step: int) -> None:
        from torch.utils.tensorboard.summary import image

        self.write(step, image(name, picture, dataformats="CHW"))

    def write(self, step: int, summary: Any) -> None:
        """Anything else that torch.utils.tensorboard.summary makes, as histogram(name, values, "auto")."""
        self._event(step=step, summary=summary)

    def _event(self, **event: Any) -> None:
        """Not by torch's SummaryWriter: a thread of its writes, which ends at the first failure and takes
        with it what it holds."""
        from tensorboard.compat.proto.event_pb2 import Event  # takes a second to import
        from tensorboard.summary.writer.record_writer import RecordWriter

        if self._records is None:
            name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
            self._files.append(Appended(self.folder / name))
            self._records = RecordWriter(self._files[-1])
            self._event(file_version="brain.Event:2")
        self._records.write(Event(wall_time=time.time(), **event).SerializeToString())

    def files(self) -> list[Appended]:
        old = [Appended(p) for p in self.folder.glob("events.out.tfevents.*") if p not in [f.path for f in self._files]]
        return old + self._files

    def cut(self, sizes: Mapping[str, int], unwritten: Mapping[str, bytes]) -> None:
        for path in self.folder.glob("events.out.tfevents.*"):
            size = sizes.get(path.name, 0)
            if size == 0:
                path.unlink()
            elif path.stat().st_size > size:
                os.truncate(path, size)
        for name, data in unwritten.items():
            if name.startswith("events.out.tfevents.") and Path(name).name == name:
                self._files.append(Appended(self.folder / name))
                self._files[-1].write(data)


def _whole_lines(path: Path) -> int:
    """Bytes up to the end of the last whole line."""
    return path.read_bytes().rfind(b"\n") + 1 if path.exists() else 0


def _is_test(line: bytes) -> bool:
    try:
        return bool(json.loads(line)["split"] == "test") and line.endswith(b"\n")
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
