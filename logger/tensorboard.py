"""TensorBoard event files. However often a run is killed, each point appears exactly once (see metrics_jsonl.py)."""

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from logger.append_only_file import AppendOnlyFile

PREFIX = "events.out.tfevents."


class TensorBoard:
    """Writes scalars as split/name over the step, and images. Each start of a run opens a new file.

    torch's SummaryWriter is not used: its thread ends at the first failed write and loses what it holds.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._records: Any = None
        self._files: list[AppendOnlyFile] = []

    def scalars(self, step: int, epoch: int, split: str, values: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        points = [Summary.Value(tag=f"{split}/{name}", simple_value=value) for name, value in values.items()]
        self.write(step, Summary(value=points))

    def image(self, name: str, picture: Tensor, step: int) -> None:
        """picture: [C, H, W], values 0..1."""
        from torch.utils.tensorboard.summary import image

        self.write(step, image(name, picture, dataformats="CHW"))

    def text(self, name: str, text: str, step: int) -> None:
        from torch.utils.tensorboard.summary import text as summary_of

        self.write(step, summary_of(name, f"```\n{text}\n```"))  # Markdown: line ends and spaces stay

    def write(self, step: int, summary: Any) -> None:
        """Anything else that torch.utils.tensorboard.summary makes, such as histogram(name, values, "auto")."""
        self._event(step=step, summary=summary)

    def _event(self, **fields: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event  # takes a second to import
        from tensorboard.summary.writer.record_writer import RecordWriter

        if self._records is None:
            file = AppendOnlyFile(self.folder / f"{PREFIX}{time.time_ns()}.{socket.gethostname()}.{os.getpid()}")
            self._files.append(file)
            self._records = RecordWriter(file)
            self._event(file_version="brain.Event:2")
        self._records.write(Event(wall_time=time.time(), **fields).SerializeToString())

    def files(self) -> list[AppendOnlyFile]:
        own = [file.path for file in self._files]
        earlier = [AppendOnlyFile(path) for path in self.folder.glob(f"{PREFIX}*") if path not in own]
        return earlier + self._files

    def cut(self, sizes: Mapping[str, int], unwritten: Mapping[str, bytes]) -> None:
        """Drop what was written after these sizes were taken."""
        for path in self.folder.glob(f"{PREFIX}*"):
            size = sizes.get(path.name, 0)
            if size == 0:
                path.unlink()
            elif path.stat().st_size > size:
                os.truncate(path, size)
        for name, data in unwritten.items():
            if name.startswith(PREFIX) and Path(name).name == name:  # a checkpoint must not choose another folder
                self._files.append(AppendOnlyFile(self.folder / name))
                self._files[-1].write(data)
