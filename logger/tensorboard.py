"""TensorBoard event files. However often a run is killed, each point appears exactly once (see metrics_jsonl.py).

The points of train, valid and test go to folders of these names: TensorBoard shows values of one name in one chart.
"""

import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import yaml
from torch import Tensor

from logger import hparams
from logger.append_only_file import AppendOnlyFile
from logger.console import log
from logger.writer import RunInfo, Writer

PREFIX = "events.out.tfevents."
SPLITS = ("train", "valid", "test")  # folders of the run's folder
KEPT = "test"  # what test.py has written: no run repeats it


class TensorBoard(Writer):
    """Scalars as NAME over the step in the folder of their split; all else in the run's folder itself.

    torch's SummaryWriter is not used: its thread ends at the first failed write and loses what it holds.
    """

    can_cut = True

    def __init__(self) -> None:
        self._records: dict[str, Any] = {}  # of each folder that this start of the run writes to
        self._files: list[AppendOnlyFile] = []

    def open(self, run: RunInfo) -> None:
        """The config and the command as text, and the config in the tab HPARAMS; a run that is continued adds its own.

        Its columns there are the last values of the charts.
        """
        self.folder = run.folder
        if not run.config:
            return
        dumped = yaml.safe_dump(dict(run.config), sort_keys=False, allow_unicode=True, default_flow_style=None)
        self.text("config", dumped, run.step)
        if run.command:
            self.text("command", run.command, run.step)
        self.write(run.step, hparams.start(run.config))

    def scalars(self, step: int, epoch: int, split: str, values: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        place, prefix = (split, "") if split in SPLITS else ("", f"{split}/")
        points = [Summary.Value(tag=prefix + name, simple_value=value) for name, value in values.items()]
        self._event(place, step=step, summary=Summary(value=points))

    def image(self, name: str, picture: Tensor, step: int) -> None:
        from torch.utils.tensorboard.summary import image

        self._event(_place(name), step=step, summary=image(name, picture, dataformats="CHW"))

    def text(self, name: str, text: str, step: int) -> None:
        from torch.utils.tensorboard.summary import text as summary_of

        fenced = f"```\n{text}\n```"  # Markdown: line ends and spaces stay
        self._event(_place(name), step=step, summary=summary_of(name, fenced))

    def histogram(self, name: str, values: np.ndarray, step: int) -> None:
        from torch.utils.tensorboard.summary import histogram

        self.write(step, histogram(name, values, bins=64))

    def embedding(
        self, name: str, vectors: Tensor, labels: Sequence[str], images: Tensor | None = None, step: int = 0
    ) -> None:
        """For the tab PROJECTOR, which shows the newest: each call replaces the files of the one before."""
        from logger import projector

        try:
            projector.write(self.folder, name, vectors, labels, images)
        except OSError as e:  # a full disk; the next call writes them again
            log.error(f"{self.folder}: the embedding could not be written: {e.strerror}; the run goes on")

    def result(self, step: int, values: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        points = [Summary.Value(tag=f"result/{name}", simple_value=value) for name, value in values.items()]
        self.write(step, Summary(value=points))
        self.write(step, hparams.end())

    def write(self, step: int, summary: Any) -> None:
        """Anything else that torch.utils.tensorboard.summary makes, such as histogram(name, values, "auto")."""
        self._event("", step=step, summary=summary)

    def _event(self, split: str, **fields: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event  # takes a second to import
        from tensorboard.summary.writer.record_writer import RecordWriter

        if split not in self._records:
            place = self.folder / split
            place.mkdir(exist_ok=True)
            file = AppendOnlyFile(place / f"{PREFIX}{time.time_ns()}.{socket.gethostname()}.{os.getpid()}")
            self._files.append(file)
            self._records[split] = RecordWriter(file)
            self._event(split, file_version="brain.Event:2")
        self._records[split].write(Event(wall_time=time.time(), **fields).SerializeToString())

    # -- after a kill -------------------------------------------------------------------------------------------------

    def files(self) -> list[AppendOnlyFile]:
        own = [file.path for file in self._files]
        return [AppendOnlyFile(path) for path in _paths(self.folder) if path not in own] + self._files

    def cut(self, folder: Path, sizes: Mapping[str, int], unwritten: Mapping[str, bytes]) -> None:
        for path in _paths(folder):
            size = sizes.get(path.relative_to(folder).as_posix(), 0)
            if size == 0:
                path.unlink()
            elif path.stat().st_size > size:
                os.truncate(path, size)
        for name, data in unwritten.items():
            place = PurePosixPath(name)
            # A checkpoint must not choose another folder
            if place.name.startswith(PREFIX) and name in (place.name, *(f"{split}/{place.name}" for split in SPLITS)):
                (folder / place.parent).mkdir(exist_ok=True)
                self._files.append(AppendOnlyFile(folder / name))
                self._files[-1].write(data)


def _place(name: str) -> str:
    """The folder of a picture: what test.py shows goes where its values go, which no resume cuts."""
    return KEPT if name.startswith(f"{KEPT}/") else ""


def _paths(folder: Path) -> list[Path]:
    """The event files that a resume cuts back."""
    places = [folder, *(folder / split for split in SPLITS if split != KEPT)]
    inside = [place for place in places if place == folder or not place.is_symlink()]
    return [path for place in inside for path in place.glob(f"{PREFIX}*")]
