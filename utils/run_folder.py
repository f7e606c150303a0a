"""A run's folder, saved/<name>/<run-id>/: found or made, and locked against a second process."""

import contextlib
import itertools
import json
import os
import shutil
import socket
import time
from pathlib import Path
from typing import IO

from utils.errors import UsageError
from utils.files import write_atomic

CHECKPOINTS = "checkpoints"
BEST = "model_best.pth"
EXPORTED = (".onnx", ".pt2", ".safetensors")  # what files of export.py end with
ENSEMBLE = "ensemble.json"  # in a folder of several runs: the names of those that predict together
UNFIT = '/\\<>:"|?*' if os.name == "nt" else "/\\"  # in a folder's name; Windows would cut off what follows a colon
NOT_A_NAME = f"expected a folder name without {' and '.join(UNFIT)}, of at most 255 bytes"  # as nearly all systems
NOTHING_YET = {CHECKPOINTS, ".lock", ".tmp-config.yaml"}


class Run:
    """The folder of one run, locked until this process ends."""

    def __init__(self, folder: Path, checkpoint: Path | None = None, timed: bool = False) -> None:
        self.folder, self.checkpoint = folder, checkpoint
        self.timed = timed  # named after the time, and not made yet
        self._lock: IO[str] | None = None
        self._made: list[Path] = []  # by this process: the folder, and those above it

    def __str__(self) -> str:
        return str(self.folder)

    @property
    def checkpoints(self) -> Path:
        return self.folder / CHECKPOINTS

    @property
    def exists(self) -> bool:
        return not self.timed and (self.folder / "config.yaml").is_file()

    def open(self, config_yaml: str) -> None:
        """Make the folder if it is new, lock it, and write the resolved config into it."""
        try:
            if self.timed:
                self._make()
            elif not self.folder.exists():
                self._made = _missing(self.folder)
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            self.lock()
            assert self._lock is not None
            self._lock.truncate(0)
            self._lock.write(f"process {os.getpid()} on {socket.gethostname()}")
            self._lock.flush()
            write_atomic(self.folder / "config.yaml", config_yaml.encode())
        except OSError as e:
            raise self._cannot_write(e) from e

    def _cannot_write(self, error: OSError) -> UsageError:
        return UsageError(
            f"cannot write to {self.folder}: {error.strerror}; free space or fix permissions there, or choose another "
            f"folder with trainer.save_dir=FOLDER"
        )

    def _make(self) -> None:
        """Make the folder, with a number after its name if another run started in the same second."""
        name = self.folder.name
        for number in itertools.count(2):
            missing = _missing(self.folder)
            try:
                self.folder.mkdir(parents=True)
                self.timed, self._made = False, missing
                return
            except FileExistsError:
                self.folder = self.folder.with_name(f"{name}-{number}")

    def lock(self) -> None:
        """Raises UsageError, naming the other process, if one already writes to this folder."""
        if self._lock:
            return
        try:
            file = open(self.folder / ".lock", "a+", encoding="utf-8")  # noqa: SIM115 (held until the process ends)
        except OSError as e:
            raise self._cannot_write(e) from e
        try:
            lock_file(file)
        except OSError as e:
            file.seek(0)
            holder = file.read().strip() or "another process"
            file.close()
            raise UsageError(
                f"{self.folder}: {holder} is writing to this run; stop it first, or start another run"
            ) from e
        self._lock = file

    def discard(self) -> None:
        """Remove the folder if this process made it and it has no checkpoint: the run failed before its first step."""
        if not self._made or any(self.checkpoints.glob("*.pth*")):
            return
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        for folder in self._made[1:]:
            with contextlib.suppress(OSError):  # another run is in it
                folder.rmdir()

    def close(self) -> None:
        if self._lock:
            self._lock.close()
            self._lock = None


def _missing(folder: Path) -> list[Path]:
    """The folder and those above it that do not exist yet, from the bottom up."""
    return [path for path in (folder, *folder.parents) if not path.exists()]


def lock_file(file: IO[str]) -> None:
    """Lock a file until it is closed or the process ends, however it ends. OSError: another process has the lock.

    Not `filelock`, whose flock() passes on to data loader workers and so outlives a killed run.
    """
    try:
        import fcntl
    except ImportError:  # Windows, where a locked byte cannot be read: lock one far behind the holder's name
        import msvcrt

        file.seek(1 << 30)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    else:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_folder_name(name: str) -> bool:
    fits = name.strip() and name not in (".", "..") and len(name.encode(errors="replace")) <= 255
    return bool(fits) and not any(c in UNFIT or not c.isprintable() for c in name)


def new_run(save_dir: str, name: str, run_id: str | None) -> Run:
    """A new run; nothing is made until `open`."""
    if run_id is not None:
        if not is_folder_name(run_id):
            raise UsageError(f"--run-id {run_id[:60]!r}: {NOT_A_NAME}")
        folder = Path(save_dir, name, run_id)
        if folder.exists() and not _never_began(folder):
            raise UsageError(
                f"--run-id {run_id}: {folder} exists already; continue it with -r {folder}, or give another ID"
            )
        return Run(folder)
    return Run(Path(save_dir, name, time.strftime("%Y-%m-%d_%H-%M-%S")), timed=True)


def _never_began(folder: Path) -> bool:
    """Was the process that made this folder killed before it wrote the config?"""
    return not (folder / "config.yaml").exists() and {p.name for p in folder.iterdir()} <= NOTHING_YET


def find_run(resume: str) -> Run:
    """The run that `-r` names by its folder or by one of its checkpoints; raises UsageError if there is none."""
    path = Path(resume)
    if os.path.isfile(path):  # Path raises for a long name
        run = Run(path.parent.parent, path)
        _refuse_config(path)
        if path.parent.name != CHECKPOINTS or not (run.folder / "config.yaml").is_file():
            raise UsageError(
                f"-r {resume}: this checkpoint is not in a run's folder (RUN/{CHECKPOINTS}/), so it cannot be "
                f"continued; start a new run from its weights with init_from={resume}"
            )
        return run
    if path.name == CHECKPOINTS:
        path = path.parent
    if os.path.isfile(path / "config.yaml"):
        return Run(path)
    epochs = path.glob("checkpoint-epoch*.pth") if os.path.isdir(path) else ()
    of_2020 = sorted(epochs, key=lambda p: p.stat().st_mtime_ns) + [p for p in [path / BEST] if os.path.isfile(p)]
    if of_2020:
        raise UsageError(
            f"-r {resume}: a run of the 2020 template cannot be continued; start a new run from its weights with "
            f"-c FILE init_from={of_2020[-1]}"
        )
    folder = path if os.path.isdir(path) else path.parent
    near = sorted(folder.glob("*/config.yaml")) or sorted(folder.glob("*/*/config.yaml"))
    there = f"; runs there: {', '.join(str(p.parent) for p in near[-5:])}" if near else ""
    raise UsageError(f"-r {resume}: neither a run nor a checkpoint; give a run's folder or a checkpoint file{there}")


def _refuse_config(path: Path) -> None:
    if path.suffix in (".yaml", ".yml", ".json"):
        raise UsageError(f"-r {path}: a config, expected a run's folder; to start a run, write train.py -c {path}")


def is_exported(path: str) -> bool:
    """Is it a file that export.py may have written?"""
    return Path(path).suffix in EXPORTED and os.path.isfile(path)


def find_checkpoint(resume: str) -> Path:
    """The checkpoint that `-r` names: a file, or the best checkpoint of a run, or else its newest."""
    path = Path(resume)
    if os.path.isfile(path):
        _refuse_config(path)
        return path
    run = find_run(resume)
    best = run.checkpoints / BEST
    others = sorted(run.checkpoints.glob("checkpoint-step*.pth"), key=lambda p: p.stat().st_mtime_ns)
    if not best.exists() and not others:
        raise UsageError(f"-r {resume}: this run has no checkpoint yet")
    return best if best.exists() else others[-1]


def members(path: str) -> list[str]:
    """The runs of an ensemble, such as the folds of a sweep, if `-r` names the folder of one; else the run itself."""
    try:
        names = json.loads(Path(path, ENSEMBLE).read_bytes())
    except OSError:
        return [path]
    if not names:
        raise UsageError(f"-r {path}: its best runs are on another machine; give runs")
    return [str(Path(path, name)) for name in names]


def newest_run(save_dir: str, name: str, run_id: str | None = None) -> Run | None:
    """The run of this name (and ID) that was started or continued last, or None."""
    configs = [p for p in Path(save_dir, name).glob("*/config.yaml") if run_id in (None, p.parent.name)]
    newest = max(configs, key=lambda p: (p.stat().st_mtime_ns, p), default=None)
    return Run(newest.parent) if newest else None
