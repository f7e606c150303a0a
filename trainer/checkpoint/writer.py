"""Writes checkpoints: whole or not at all, in the background, and read back before they get their names."""

import contextlib
import os
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from trainer.checkpoint.files import BrokenCheckpoint, checkpoints, name_of, remove_unused, verify
from utils.files import sync_folder
from utils.run_folder import BEST

CHUNK = 2**18  # elements of a tensor that are copied at a time: so few that they are still in the cache
PLAIN = (bool, int, float, str, bytes, type(None))


class Checkpoints:
    """The checkpoints of one run: the newest `keep_last`, the best, and those of the steps in `top`, under other names.

    `save` copies the state into host memory that is kept for the next save, and returns; a thread writes it. `error`
    is the reason of a save that failed and that nobody has waited for yet.
    """

    def __init__(self, folder: Path, keep_last: int) -> None:
        self.folder, self.keep_last = folder, keep_last
        self.bytes_needed = 0  # size of one checkpoint: of the state that was last to be saved
        self._buffers: dict[str, torch.Tensor] = {}
        self._copied: dict[int, torch.Tensor] = {}  # in this save, by the id of the original: some appear twice
        self._sums: list[torch.Tensor] | None = None  # of what is being copied, if they are needed
        self._thread: threading.Thread | None = None
        self.error: str | None = None
        self.top: list[int] = []  # the steps of several best, the best first; none where only the best is kept
        self._owed: tuple[Mapping[str, Any], list[str]] | None = None  # a best that could not be written, and its names

    def newest(self) -> list[Path]:
        """The checkpoints, newest first."""
        return [path for path in checkpoints(self.folder) if path.is_file()]

    def save(self, state: Mapping[str, Any], best: bool, suspect: Callable[[], None] | None = None) -> None:
        """Write the state as the checkpoint of its step, and as the best if it is; `wait` first.

        suspect: called before anything is written where some number of the state is not finite; may raise.
        """
        assert self._thread is None, "wait() before the next save()"
        self._sums = None if suspect is None else []
        self._copied = {}
        snapshot = self._copy(state, "state")
        if suspect is not None and self._sums and not torch.stack(self._sums).isfinite().all():
            suspect()
        self.bytes_needed = sum(t.numel() * t.element_size() for t in self._buffers.values())
        names = [name_of(state["step"])]
        names += [BEST] if best else []
        names += [top_name(state["step"])] if state["step"] in self.top else []
        jobs = [(snapshot, names)]
        if self._owed is not None and not best:
            jobs.insert(0, self._owed)
        self._thread = threading.Thread(target=self._work, args=(jobs,), name="checkpoint-writer")
        self._thread.start()

    def wait(self) -> str | None:
        """Wait until the last save is on the disk. Returns an error message if it failed."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        reason, self.error = self.error, None
        if reason is None:
            return None
        if not self.folder.parent.is_dir():
            reason = "the run's folder was deleted"
        newest = self.newest()
        return (
            f"could not save a checkpoint in {self.folder}: {reason}; {self.bytes_needed / 1e6:,.1f} MB are needed, "
            f"{space(self.folder) / 1e6:,.1f} MB are free; on the disk is {newest[0].name if newest else 'none'}"
        )

    def _copy(self, value: Any, at: str) -> Any:
        """A copy of the state in kept host memory; plain types only, so that `weights_only=True` can load it."""
        if isinstance(value, torch.Tensor):
            if value.is_meta:
                return value
            if id(value) not in self._copied:
                self._copied[id(value)] = self._copy_tensor(value.detach(), at)
            return self._copied[id(value)]
        if isinstance(value, Mapping):
            return {k: self._copy(v, f"{at}.{k}") for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)([self._copy(v, f"{at}.{i}") for i, v in enumerate(value)])
        if type(value) in PLAIN:
            return value
        raise TypeError(
            f"{at} is a {type(value).__name__}; a checkpoint holds only tensors and plain types (numbers, strings, "
            f"None, lists, dicts): convert it in that part's state_dict()"
        )

    def _copy_tensor(self, value: torch.Tensor, at: str) -> torch.Tensor:
        """A copy in the buffer that is kept under this name."""
        buffer = self._buffers.get(at)
        if buffer is None or buffer.shape != value.shape or buffer.dtype != value.dtype:
            buffer = self._buffers[at] = torch.empty_like(value, device="cpu", memory_format=torch.preserve_format)
        if self._sums is None or not value.is_floating_point():
            return buffer.copy_(value)
        self._sums += _copy_and_sum(value, buffer)
        return buffer

    def _work(self, jobs: list[tuple[Mapping[str, Any], list[str]]]) -> None:
        """The body of the thread. The main thread reports its errors."""
        for state, names in jobs:
            try:
                self._write(state, names)
            except Exception as e:
                self.error = reason(e)
                if BEST in names:
                    self._owed = state, [name for name in names if name != name_of(state["step"])]
                    self._buffers = {}  # the next save must not copy over it
            else:
                if BEST in names:
                    self._owed = None

    def _write(self, state: Mapping[str, Any], names: list[str]) -> None:
        """Write a file that has all these names; each appears whole, and only after the file was read back."""
        temporaries = [self.folder / f".tmp-{name}" for name in names]
        try:
            self.folder.mkdir(exist_ok=True)
            write_file(state, temporaries[0])
            for name in state.get("logs", ()):  # what the checkpoint says is in them must survive a power cut, too
                with contextlib.suppress(OSError):
                    sync_file(self.folder.parent / name)
            # The best first: in the other order, a kill in between would leave out a best that no resume repeats
            for temporary, name in reversed(list(zip(temporaries, names, strict=True))):
                if temporary != temporaries[0]:
                    _copy_file(temporaries[0], temporary)
                os.replace(temporary, self.folder / name)
            sync_folder(self.folder)
            for old in self.newest()[self.keep_last :]:
                old.unlink()
            kept = {top_name(step) for step in self.top}
            for old in self.folder.glob("model_best_step*.pth") if kept else ():
                if old.name not in kept:
                    old.unlink()
            remove_unused(self.folder)
        finally:
            for temporary in temporaries:
                with contextlib.suppress(OSError):  # it is not there: all went well
                    temporary.unlink()


def top_name(step: int) -> str:
    return f"model_best_step{step}.pth"


def _copy_and_sum(value: torch.Tensor, to: torch.Tensor) -> list[torch.Tensor]:
    """Copy; the sums of its pieces, each not finite if a number in it is not. Costs a third of a separate pass:
    a piece that was just copied is still in the cache."""
    if value.dim() == 0 or value.numel() <= CHUNK:
        return [to.copy_(value).sum(dtype=torch.float32)]
    rows = max(1, CHUNK * len(value) // value.numel())
    pieces = zip(to.split(rows), value.split(rows), strict=True)
    return [there.copy_(here).sum(dtype=torch.float32) for there, here in pieces]


def write(state: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint, whole or not at all, in place of what has that name."""
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        write_file(state, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_file(state: Mapping[str, Any], path: Path) -> None:
    # to an open file: handed a path, torch.save writes from many threads and slows the loop down
    with open(path, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    verify(path)


def sync_file(path: Path) -> None:
    with open(path, "r+b") as file:  # Windows syncs only what is open for writing
        os.fsync(file.fileno())


def _copy_file(path: Path, to: Path) -> None:
    to.unlink(missing_ok=True)
    try:
        os.link(path, to)
    except OSError:  # a file system without links
        shutil.copyfile(path, to)
        sync_file(to)


def reason(error: BaseException) -> str:
    """Why a save failed, for people. torch turns the system's error into one about its own file format."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):
            return cause.strerror or str(cause)
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, BrokenCheckpoint):
        return f"reading it back gave something else than what was written: {error}"
    return f"{type(error).__name__}: {error}"


def space(folder: Path) -> int:
    """Bytes free where `folder` is, or was."""
    folder = next(f for f in [folder, *folder.absolute().parents] if f.is_dir())
    return shutil.disk_usage(folder).free
