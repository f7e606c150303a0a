"""Checkpoints: written whole or not at all, in the background; verified before they are believed."""

import contextlib
import os
import re
import shutil
import threading
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from logger.logger import log
from utils.errors import Stopped
from utils.run import BEST, sync_folder

FORMAT = 1
SHARDS = "shards"  # what a sharded checkpoint says of the folder beside it (trainer/shards.py)
PIECE = 2**18  # numbers of a tensor that are copied at a time: so few that they are still in the cache
PLAIN = (bool, int, float, str, bytes, type(None))
PROGRESS: dict[str, Any] = {  # what every checkpoint holds besides the states of the trainer's parts
    "format": int,
    "config": dict,
    "step": int,
    "epoch": int,
    "closed": int,
    "skipped": list,
    "stop_reason": (str, type(None)),
    "environment": dict,
    "logs": dict,
    "unwritten": dict,
}


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

    `save` copies the state into host memory that is kept for the next save, and returns; a thread writes it. `error`
    tells of a save that did not work and that nobody has waited for yet.
    """

    def __init__(self, folder: Path, keep_last: int) -> None:
        self.folder, self.keep_last = folder, keep_last
        self.bytes_needed = 0  # size of one checkpoint: of the state that was last to be saved
        self._buffers: dict[str, torch.Tensor] = {}
        self._sums: list[torch.Tensor] | None = None  # of what is being copied, where those are wanted
        self._thread: threading.Thread | None = None
        self.error: str | None = None
        self._owed_best: Mapping[str, Any] | None = None  # a best state that could not be written yet

    def newest(self) -> list[Path]:
        """The checkpoints, newest first."""
        return [path for path in checkpoints(self.folder) if path.is_file()]

    def save(self, state: Mapping[str, Any], best: bool, suspect: Callable[[], None] | None = None) -> None:
        """Write the state as the checkpoint of its step, and as the best if it is; `wait` first.

        suspect: called before anything is written where some number of the state is not finite; may raise.
        """
        assert self._thread is None, "wait() before the next save()"
        self._sums = None if suspect is None else []
        snapshot = self._copy(state, "state")
        if suspect is not None and self._sums and not torch.stack(self._sums).isfinite().all():
            suspect()
        self.bytes_needed = sum(t.numel() * t.element_size() for t in self._buffers.values())
        jobs = [(snapshot, [name_of(state["step"]), *[BEST] * best])]
        if self._owed_best is not None and not best:
            jobs.insert(0, (self._owed_best, [BEST]))
        self._thread = threading.Thread(target=self._work, args=(jobs,), name="checkpoint-writer")
        self._thread.start()

    def wait(self) -> str | None:
        """Wait until the last save is on the disk; if it failed, what a person should know of it."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        reason, self.error = self.error, None
        if reason is None:
            return None
        if not self.folder.parent.is_dir():
            reason = "the run's folder is gone"
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
            value = value.detach()
            buffer = self._buffers.get(at)
            if buffer is None or buffer.shape != value.shape or buffer.dtype != value.dtype:
                buffer = self._buffers[at] = torch.empty_like(value, device="cpu", memory_format=torch.preserve_format)
            if self._sums is None or not value.is_floating_point():
                return buffer.copy_(value)
            self._sums += _copy_and_sum(value, buffer)
            return buffer
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

    def _work(self, jobs: list[tuple[Mapping[str, Any], list[str]]]) -> None:
        """What the thread does. Whatever goes wrong is for the main thread to tell."""
        for state, names in jobs:
            try:
                self._write(state, names)
            except Exception as e:
                self.error = reason(e)
                if BEST in names:
                    self._owed_best = state
                    self._buffers = {}  # the next save must not copy over it
            else:
                if BEST in names:
                    self._owed_best = None

    def _write(self, state: Mapping[str, Any], names: list[str]) -> None:
        """Write a file that has all these names; each appears whole, and only after the file was read back."""
        temporaries = [self.folder / f".tmp-{name}" for name in names]
        try:
            self.folder.mkdir(exist_ok=True)
            _write_file(state, temporaries[0])
            for name in state.get("logs", ()):  # what the checkpoint says is in them must outlive a power cut, too
                with contextlib.suppress(OSError):
                    sync_file(self.folder.parent / name)
            # The best first: were it the other way round, a kill in between would leave a best that no resume repeats
            for temporary, name in reversed(list(zip(temporaries, names, strict=True))):
                if temporary != temporaries[0]:
                    _copy_file(temporaries[0], temporary)
                os.replace(temporary, self.folder / name)
            sync_folder(self.folder)
            for old in self.newest()[self.keep_last :]:
                old.unlink()
            remove_unused(self.folder)
        finally:
            for temporary in temporaries:
                with contextlib.suppress(OSError):  # that it is not there: all went well
                    temporary.unlink()


def _copy_and_sum(value: torch.Tensor, to: torch.Tensor) -> list[torch.Tensor]:
    """Copy; the sums of its pieces, each not finite if a number in it is not. Costs a third of a pass of its own, for
    a piece that was just copied is still in the cache."""
    if value.dim() == 0 or value.numel() <= PIECE:
        return [to.copy_(value).sum(dtype=torch.float32)]
    rows = max(1, PIECE * len(value) // value.numel())
    pieces = zip(to.split(rows), value.split(rows), strict=True)
    return [there.copy_(here).sum(dtype=torch.float32) for there, here in pieces]


def remove_leftovers(folder: Path) -> None:
    """Delete what killed writers left unfinished; only for who holds the run's lock."""
    for path in folder.glob(".tmp-*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    remove_unused(folder)


def remove_unused(folder: Path) -> None:
    """Delete the shards, also half-written ones, that no checkpoint refers to, nor one that was set aside."""
    if not (found := list(folder.glob("*.shards"))):
        return
    used = set[str]()
    for path in folder.glob("*.pth*"):
        try:
            used.add(torch.load(path, map_location="cpu", weights_only=True, mmap=True)[SHARDS]["folder"])
        except KeyError:
            continue  # a plain one
        except Exception:  # a damaged one: its folder has the name of its step
            used |= {shards.name for shards in found if shards.name.startswith(path.name.split(".")[0])}
    for path in found:
        if path.name not in used:
            shutil.rmtree(path, ignore_errors=True)


def write(state: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint, whole or not at all, in place of what has that name."""
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        _write_file(state, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def _write_file(state: Mapping[str, Any], path: Path) -> None:
    # to an open file: handed a path, torch.save writes from many threads and slows the loop down
    with open(path, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    verify(path)


def sync_file(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _copy_file(path: Path, to: Path) -> None:
    to.unlink(missing_ok=True)
    try:
        os.link(path, to)
    except OSError:  # a file system without links
        shutil.copyfile(path, to)
        sync_file(to)


def reason(error: BaseException) -> str:
    """Why a save failed, for people. torch turns what the disk says into an error about its own file format."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):
            return cause.strerror or str(cause)
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, BrokenCheckpoint):
        return f"what was read back is not what was written: {error}"
    return f"{type(error).__name__}: {error}"


def space(folder: Path) -> int:
    """Bytes free where `folder` is, or was."""
    folder = next(f for f in [folder, *folder.absolute().parents] if f.is_dir())
    return shutil.disk_usage(folder).free


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


def damaged(folder: Path, files: Mapping[str, list[int]]) -> str | None:
    """What is wrong with files of known length and checksum, {name: [bytes, CRC-32]}; None where nothing is."""
    for name, (size, told) in files.items():
        if Path(name).name != name or not (folder / name).is_file():
            return f"{folder.name}/{name} is missing"
        crc = 0
        try:
            with open(folder / name, "rb") as file:
                while block := file.read(2**20):
                    crc = zlib.crc32(block, crc)
                if (file.tell(), crc) != (size, told):
                    return f"{folder.name}/{name} is damaged or cut off"
        except OSError as e:
            return f"{folder.name}/{name} cannot be read: {e.strerror}"
    return None


def _verify_shards(folder: Path, told: Any) -> None:
    """Raise BrokenCheckpoint unless the shards that a checkpoint in this folder tells of are whole."""
    try:
        name, files = told["folder"], told["files"]
        why = damaged(folder / name, files) if Path(name).name == name else f"its shards lie elsewhere: {name}"
    except (KeyError, TypeError, ValueError, AttributeError):
        why = "what it says of its shards makes no sense"
    if why:
        raise BrokenCheckpoint(why)


def load(path: Path, look: bool = True) -> dict[str, Any]:
    """The state in a checkpoint, on the CPU; raises BrokenCheckpoint, saying why, if it is not sound.

    Of a sharded one the tensors are on `meta`; trainer/shards.py reads the shards, whose checksums this looks at.
    """
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
    wrong = [key for key, kind in PROGRESS.items() if not isinstance(state.get(key), kind)]
    if wrong:
        raise BrokenCheckpoint(f"it has no usable {', '.join(wrong)}")
    if step_of(path) not in (-1, state["step"]):
        raise BrokenCheckpoint(f"it is named for another step than {state['step']}, which it holds")
    if SHARDS in state and look:
        _verify_shards(path.parent, state[SHARDS])
    best_step = state.get("monitor", {}).get("best_step", state["step"])
    if path.name == BEST and best_step != state["step"]:
        raise BrokenCheckpoint(f"it holds step {state['step']}, and the best is step {best_step}")
    return state


def newest_sound(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest sound checkpoint, or None if there is none at all; warns of what is wrong with newer ones.

    Raises Stopped where there are checkpoints and none is sound.
    """
    broken: list[str] = []
    found: tuple[Path, dict[str, Any]] | None = None
    for path in [*checkpoints(folder), *([folder / BEST] if (folder / BEST).exists() else [])]:
        if found and (path.name != BEST or not broken):
            continue  # the best only counts where newer ones are broken: it may lie between those and the sound one
        try:
            state = load(path)
        except BrokenCheckpoint as e:
            broken.append(f"{path.name}: {e}")
            if not found:
                log.warning(f"{path} cannot be used: {e}; trying an older one")
            continue
        if found is None or state["step"] > found[1]["step"]:
            found = path, state
    if found is None and broken:
        raise Stopped(
            f"no usable checkpoint in {folder}:\n  "
            + "\n  ".join(broken)
            + "\nRestore one of them from a backup, or start a new run (without -r); nothing was changed here."
        )
    return found


def clean(key: str) -> str:
    """A parameter's name without what DistributedDataParallel and torch.compile put before it."""
    return key.replace("_orig_mod.", "").removeprefix("module.")
