"""Checkpoints: written whole or not at all, in the background; verified before they are believed."""

import collections
import contextlib
import datetime
import errno
import hashlib
import os
import pathlib
import re
import shutil
import threading
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from utils.errors import Refused, Stopped
from utils.run import BEST, sync_folder

FORMAT = 1
PLAIN = (bool, int, float, str, bytes, type(None))


class BrokenCheckpoint(Exception):
    """A file that is no sound checkpoint; the text says in what way."""


def name_of(step: int) -> str:
    return f"checkpoint-step{step}.pth"


def step_of(path: Path) -> int:
    """The step in a checkpoint's name, -1 where there is none."""
    match = re.fullmatch(r"checkpoint-step(\d+)\.pth", path.name)
    return int(match[1]) if match else -1


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, newest first."""
    return sorted((p for p in folder.glob("checkpoint-step*.pth") if step_of(p) >= 0), key=step_of, reverse=True)


class Checkpoints:
    """The checkpoints of one run: the newest `keep_last` and the best.

    `save` copies the state into host memory that is kept for the next save, and returns; a thread writes it. What
    goes wrong there is kept in `error` until the next `wait` returns it.
    """

    def __init__(self, folder: Path, keep_last: int) -> None:
        self.folder, self.keep_last = folder, keep_last
        self._buffers: dict[str, torch.Tensor] = {}
        self._thread: threading.Thread | None = None
        self.error: OSError | None = None
        if folder.is_dir():
            for path in folder.glob(".tmp-*"):  # of a writer that was killed; the run's lock says that none is left
                path.unlink()

    def newest(self) -> list[Path]:
        """The checkpoints, newest first."""
        return checkpoints(self.folder)

    def bytes_needed(self) -> int:
        """Size of one checkpoint: of the state that was last to be saved."""
        return sum(t.numel() * t.element_size() for t in self._buffers.values())

    def save(self, state: Mapping[str, Any], best: bool, regular: bool = True) -> None:
        """Write the state as the checkpoint of its step, as the best, or as both; `wait` first."""
        assert self._thread is None, "wait() before the next save()"
        names = [name_of(state["step"])] * regular + [BEST] * best
        snapshot = self._copy(state, "state")
        self._thread = threading.Thread(target=self._write, args=(snapshot, names), name="checkpoint-writer")
        self._thread.start()

    def wait(self) -> OSError | None:
        """Wait until the last save is on the disk; what it failed with, if it failed."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self.error = self.error, None
        return error

    @property
    def failed(self) -> bool:
        return self.error is not None

    def _copy(self, value: Any, at: str) -> Any:
        """A copy of the state in kept host memory; plain types only, so that `weights_only=True` can load it."""
        if isinstance(value, torch.Tensor):
            value = value.detach()
            buffer = self._buffers.get(at)
            if buffer is None or buffer.shape != value.shape or buffer.dtype != value.dtype:
                buffer = self._buffers[at] = torch.empty_like(value, device="cpu", memory_format=torch.preserve_format)
            return buffer.copy_(value)
        if isinstance(value, Mapping):
            return {k: self._copy(v, f"{at}.{k}") for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)([self._copy(v, f"{at}.{i}") for i, v in enumerate(value)])
        if type(value) in PLAIN:
            return value
        raise TypeError(
            f"{at} is a {type(value).__name__}; a checkpoint holds tensors and plain types only (numbers, text, None, "
            f"lists, dicts): convert it in that part's state_dict()"
        )

    def _write(self, state: Mapping[str, Any], names: list[str]) -> None:
        path = self.folder / names[0]
        temporary = self.folder / f".tmp-{names[0]}"
        try:
            # to an open file: handed a path, torch.save writes from many threads and slows the loop down
            with open(temporary, "wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            verify(temporary)
            for name in names[1:]:
                other = self.folder / f".tmp-{name}"
                try:
                    os.link(temporary, other)
                except OSError:  # a file system without links
                    shutil.copyfile(temporary, other)
                os.replace(other, self.folder / name)
            os.replace(temporary, path)
            sync_folder(self.folder)
            for old in self.newest()[self.keep_last :]:
                old.unlink()
        except (OSError, RuntimeError, BrokenCheckpoint) as e:  # torch reports a full disk as a RuntimeError
            self.error = e if isinstance(e, OSError) else OSError(errno.EIO, str(e).splitlines()[0])
            for name in names:
                with contextlib.suppress(OSError):
                    (self.folder / f".tmp-{name}").unlink()


def space(folder: Path) -> int:
    """Bytes free where `folder` is, 0 if it is gone."""
    with contextlib.suppress(OSError):
        return shutil.disk_usage(folder).free
    return 0


def verify(path: Path) -> None:
    """Raise BrokenCheckpoint unless every record of the file has the checksum that was written with it.

    torch.load does not look at these checksums: it loads nine of ten flipped bits without a word.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
            crcs = [info.CRC for info in archive.infolist()]
    except Exception as e:  # whatever zipfile makes of a damaged file
        raise BrokenCheckpoint(f"it is damaged or cut off ({e})") from e
    if bad:
        raise BrokenCheckpoint(f"the checksum of {bad} is wrong")
    if not crcs:
        raise BrokenCheckpoint("it is empty")


def load(path: Path) -> dict[str, Any]:
    """The state in a checkpoint, on the CPU; raises BrokenCheckpoint, saying why, if it is not sound."""
    if not path.is_file():
        raise BrokenCheckpoint("it is not a file" if path.exists() else "it does not exist")
    verify(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:
        reason = str(e).splitlines()[0]
        if "weights" in str(e).lower():
            reason = "it holds Python objects, not only tensors and plain types, and loading those could run code"
        raise BrokenCheckpoint(reason) from e
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise BrokenCheckpoint(f"it is no checkpoint of format {FORMAT} of this template")
    if step_of(path) not in (-1, state["step"]):
        raise BrokenCheckpoint(f"it is named for another step than {state['step']}, which it holds")
    return state


def load_newest(folder: Path) -> Iterator[tuple[Path, dict[str, Any] | BrokenCheckpoint]]:
    """Checkpoints from the newest to the oldest, then the best: each loaded, or what is wrong with it."""
    for path in [*checkpoints(folder), *([folder / BEST] if (folder / BEST).exists() else [])]:
        try:
            yield path, load(path)
        except BrokenCheckpoint as e:
            yield path, e


def newest_sound(folder: Path, tell: Any) -> tuple[Path, dict[str, Any]] | None:
    """The newest sound checkpoint, or None if there is none at all; `tell` is given what was wrong with newer ones.

    Raises Stopped where there are checkpoints and none is sound.
    """
    broken = []
    for path, state in load_newest(folder):
        if isinstance(state, dict):
            return path, state
        broken.append(f"{path.name}: {state}")
        tell(f"{path} cannot be used: {state}; trying an older one")
    if broken:
        raise Stopped(
            f"no usable checkpoint in {folder}:\n  "
            + "\n  ".join(broken)
            + "\nRestore one of them from a backup, or start a new run (without -r); nothing was changed here."
        )
    return None


def load_weights(path: Path) -> dict[str, torch.Tensor]:
    """The model's weights from a checkpoint of this template, of the 2020 template, or from a plain state_dict.

    Raises Refused where the file cannot be read without running code from it.
    """
    if not path.is_file():
        raise Refused(f"{path}: no such file; give a checkpoint, as saved/NAME/RUN/checkpoints/model_best.pth")
    try:
        if zipfile.is_zipfile(path):  # files of torch before 1.6 are not
            verify(path)
        with legacy_globals():
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:
        why = e if isinstance(e, BrokenCheckpoint) else "it holds Python objects, and loading those could run code"
        raise Refused(
            f"{path} cannot be used: {why}. If you trust it, convert it once where it was made: "
            f"torch.save(model.state_dict(), 'weights.pth')"
        ) from e
    for key in ("model", "state_dict"):  # ours; the 2020 template's
        if isinstance(state, dict) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(v, torch.Tensor) for v in state.values()) or not state:
        raise Refused(f"{path} holds no model weights: a state_dict, or a checkpoint with `model` or `state_dict`")
    return {clean(k): v for k, v in state.items()}


@contextlib.contextmanager
def legacy_globals() -> Iterator[None]:
    """Let a 2020-template checkpoint name its ConfigParser and the plain parts in it: as stand-ins that do nothing."""

    class ConfigParser:
        """Takes the attributes of the pickled one and runs none of its code."""

    plain = [collections.OrderedDict, datetime.datetime, pathlib.PosixPath]
    with torch.serialization.safe_globals([(ConfigParser, "parse_config.ConfigParser"), *plain]):
        yield


def clean(key: str) -> str:
    """A parameter's name without what DistributedDataParallel and torch.compile put before it."""
    return key.replace("_orig_mod.", "").removeprefix("module.")


def fingerprint(root: Path) -> str:
    """A digest of the project's own code, to tell on resume that it has changed."""
    digest = hashlib.blake2b(digest_size=8)
    rooms = ("data_loader", "model", "trainer", "utils")
    for path in sorted(p for room in rooms for p in (root / room).rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()
