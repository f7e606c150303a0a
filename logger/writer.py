"""What a run is shown in, besides log.txt and metrics.jsonl. One file each in this folder, found by its class's name.

    logger: [tensorboard, {type: wandb, args: {project: digits}}]

To add one, write a class that derives from Writer; it overrides what it can show. Upper and lower case are the same.
"""

import contextlib
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from logger.append_only_file import AppendOnlyFile
from utils.files import write_atomic


@dataclass(frozen=True)
class RunInfo:
    """The run that a writer shows."""

    folder: Path
    config: Mapping[str, Any] = field(default_factory=dict)  # with all defaults, in plain types
    command: str = ""  # that trains; none in test.py
    step: int = 0  # completed steps when it was started or continued

    @property
    def name(self) -> str:
        """Of the config: the project or experiment. The run itself is called like its folder."""
        return str(self.config.get("name", self.folder.parent.name))

    @property
    def recorded(self) -> dict[str, Any]:
        """The config, and the command that trains it."""
        return {**self.config, **({"command": self.command} if self.command else {})}


class Writer:
    """Shows nothing yet. Only rank 0 opens one; until `open`, it writes nothing and imports no library.

    A run that was killed repeats the steps since its last checkpoint, with the same values: a writer that only appends
    then holds a point twice, with equal values.
    """

    libraries: Mapping[str, str] = {}  # modules that it needs -> their extra in pyproject.toml
    background = False  # call it in a thread (background.py)? For what may wait for a network or a database
    can_cut = False  # does `cut` take points back? Only then it gets values that no rerun repeats, such as the speed

    def open(self, run: RunInfo) -> None:
        """Begin to show a run, or go on with it. What it raises ends the run before its first step."""

    def scalars(self, step: int, epoch: int, split: str, values: Mapping[str, float]) -> None:
        """A point of `split`: train, valid or test."""

    def image(self, name: str, picture: Tensor, step: int) -> None:
        """picture: [C, H, W], values 0..1."""

    def text(self, name: str, text: str, step: int) -> None:
        """Plain text, of several lines."""

    def histogram(self, name: str, values: np.ndarray, step: int) -> None:
        """The distribution of the finite values [N]."""

    def embedding(
        self, name: str, vectors: Tensor, labels: Sequence[str], images: Tensor | None = None, step: int = 0
    ) -> None:
        """Vectors [N, D] with a label each, and images [N, C, H, W] with values 0..1."""

    def result(self, step: int, values: Mapping[str, float]) -> None:
        """The run is finished: its last values and its best one."""

    def close(self) -> None:
        """All is written when this returns."""

    # -- after a kill -------------------------------------------------------------------------------------------------

    def catch_up(self, points: Sequence[Mapping[str, Any]]) -> None:
        """Write those of the points in metrics.jsonl that it lacks, as far as it knows. Called when a run continues."""

    def files(self) -> list[AppendOnlyFile]:
        """The files in the run's folder whose sizes a checkpoint keeps."""
        return []

    def cut(self, folder: Path, sizes: Mapping[str, int], unwritten: Mapping[str, bytes]) -> None:
        """Drop what was written to the files after these sizes were taken, and write what a full disk did not take.
        Called before `open`, of a new run too; files are named relative to its folder."""


def send(writer: Writer, point: Mapping[str, Any]) -> None:
    """Write a point of metrics.jsonl."""
    values = {n: float("nan") if v is None else v for n, v in point.items() if n not in ("step", "epoch", "split")}
    writer.scalars(point["step"], point["epoch"], point["split"], values)


def lacking(points: Sequence[Mapping[str, Any]], steps_of: Callable[[str], set[int]]) -> list[Mapping[str, Any]]:
    """The points that a tracker lacks. steps_of: the steps at which it has a value of SPLIT/NAME."""
    known: dict[str, set[int]] = {}
    missing = []
    for point in points:
        names = [name for name in point if name not in ("step", "epoch", "split")]
        if not names:
            continue
        key = f"{point['split']}/{names[0]}"
        if key not in known:
            known[key] = steps_of(key)
        if point["step"] not in known[key]:
            missing.append(point)
    return missing


def id_of(folder: Path) -> str:
    """What a tracker knows the run in this folder by: random, and kept there, so that a resume finds it again."""
    path = folder / ".tracker-id"
    with contextlib.suppress(OSError):
        found = path.read_text(encoding="utf-8", errors="replace").strip()
        if re.fullmatch(r"[0-9a-f]{16}", found):
            return found
    made = secrets.token_hex(8)
    write_atomic(path, made.encode())
    return made
