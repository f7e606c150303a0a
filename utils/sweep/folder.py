"""The folder of a sweep, saved/<name>/<sweep-id>/: its trials and their results. Survives a kill at any time.

sweep.yaml, base.yaml     the keys or the search space; the config that all runs share
trials/000.json           the keys of one trial, and its result once it has one
trials/000.lock           locked by the process that runs it, until that ends, however it ends
trials/000.txt            what that process printed
000/                      an ordinary run folder
table.csv, best.yaml      results; and oof.csv of folds, plots.html over other keys than seeds and folds
"""

import contextlib
import json
import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import yaml

from utils.config.files import Dumper, read
from utils.errors import Stopped, UsageError
from utils.files import write_atomic
from utils.run_folder import NOT_A_NAME, is_folder_name, lock_file
from utils.sweep.points import Point, overrides_of, product

SPEC, BASE, TRIALS = "sweep.yaml", "base.yaml", "trials"
NOTHING_YET = {TRIALS, BASE, f".tmp-{BASE}", f".tmp-{SPEC}"}
PATIENCE = 60  # seconds that a process waits for a lock that is held for milliseconds only


@dataclass
class Trial:
    """state: waiting (also while it runs), done, pruned or failed. values: at step `step`, the best one."""

    number: int
    keys: Point
    state: str = "waiting"
    values: dict[str, float] = field(default_factory=dict)
    step: int = 0
    seconds: float = 0.0  # of all its processes that were not killed
    error: str = ""

    @property
    def finished(self) -> bool:
        return self.state != "waiting"

    @property
    def name(self) -> str:
        return f"{self.number:03}"

    @property
    def text(self) -> str:
        return ", ".join(overrides_of(self.keys))


class Sweep:
    """spec: `keys`, or a `search`; `objectives`, such as max val_accuracy; `owner`, which no other folder has."""

    def __init__(self, folder: Path, spec: dict[str, Any]) -> None:
        self.folder, self.spec = folder, spec

    def __str__(self) -> str:
        return str(self.folder)

    @classmethod
    def create(cls, folder: Path, spec: dict[str, Any], base_yaml: str) -> "Sweep":
        """A new one. Raises UsageError where the folder cannot be made."""
        try:
            folder.mkdir(parents=True)
            (folder / TRIALS).mkdir()
            sweep = cls(folder, spec | {"owner": uuid.uuid4().hex})
            write_atomic(folder / BASE, base_yaml.encode())
            sweep.save()
        except OSError as e:
            raise UsageError(
                f"cannot make {folder}: {e.strerror}; give another name with --sweep-id, or another place with "
                f"trainer.save_dir=FOLDER"
            ) from e
        return sweep

    @classmethod
    def open(cls, folder: Path) -> "Sweep":
        """Raises UsageError where there is none."""
        if not (folder / SPEC).is_file():
            near = sorted(str(path.parent) for path in folder.parent.glob(f"*/{SPEC}"))
            there = f"; sweeps there: {', '.join(near[-5:])}" if near else ""
            raise UsageError(f"-r {folder}: no sweep; give the folder of one, or auto{there}")
        spec = read(folder / SPEC).data
        if missing := [key for key in ("objectives", "owner") if key not in spec]:
            raise UsageError(
                f"{folder / SPEC}: {' and '.join(missing)} missing; put the file back as sweep.py wrote it"
            )
        return cls(folder, spec)

    @property
    def exists(self) -> bool:
        return (self.folder / SPEC).is_file()  # a trial that goes on for a moment may bring the folder back

    def save(self) -> None:
        text = yaml.dump(self.spec, Dumper=Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None)
        write_atomic(self.folder / SPEC, text.encode())

    @property
    def base(self) -> Path:
        return self.folder / BASE

    # -- trials -------------------------------------------------------------------------------------------------------

    def trials(self) -> list[Trial]:
        return [self.trial(number) for number in self.numbers()]

    def numbers(self) -> list[int]:
        """Of the trials that have a file."""
        return sorted(int(path.stem) for path in (self.folder / TRIALS).glob("[0-9]*.json"))

    def trial(self, number: int) -> Trial:
        path = self._file(number, "json")
        try:
            return Trial(**json.loads(path.read_bytes()))
        except (ValueError, TypeError) as e:
            raise UsageError(
                f"{path} cannot be read: {e}; remove it, and python sweep.py -r {self} runs its keys again"
            ) from e

    def write(self, trial: Trial) -> None:
        """Only by a process that holds its claim, or for a new one, the lock of the sweep."""
        write_atomic(self._file(trial.number, "json"), json.dumps(asdict(trial)).encode())

    def has(self, number: int) -> bool:
        return self._file(number, "json").exists()

    def _file(self, number: int, suffix: str) -> Path:
        return self.folder / TRIALS / f"{number:03}.{suffix}"

    def output(self, trial: Trial) -> Path:
        """What its processes print."""
        return self._file(trial.number, "txt")

    def run_folder(self, trial: Trial) -> Path:
        return self.folder / trial.name

    def add_points(self, keys: dict[str, list[Any]]) -> int:
        """Let the keys have these values too; returns the number of new trials. The others keep their numbers."""
        with self.locked():
            merged = dict(self.spec.get("keys") or {})
            if merged and (unknown := [key for key in keys if key not in merged]):
                raise UsageError(
                    f"{self}: {', '.join(unknown)} has one value in this sweep, of {', '.join(merged)}; start a new one"
                )
            for key, values in keys.items():
                merged[key] = [*merged.get(key, []), *(value for value in values if value not in merged.get(key, []))]
            if merged != self.spec.get("keys"):
                self.spec["keys"] = merged
                self.save()
            trials = self.trials()
            there = [trial.keys for trial in trials]
            new = [point for point in product(merged) if point not in there]
            first = max((trial.number for trial in trials), default=-1) + 1
            for number, point in enumerate(new, first):
                self.write(Trial(number, point))
            return len(new)

    def retry(self) -> None:
        """Let trials that failed run again."""
        with self.locked():
            for trial in self.trials():
                if trial.state == "failed" and (claim := self.claim(trial.number)):
                    with claim:
                        self.write(Trial(trial.number, trial.keys, seconds=trial.seconds))

    # -- locks --------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Within this, no other process adds trials."""
        try:
            lock = wait_for(self.folder / ".lock")
        except OSError as e:
            raise unusable(self, e.strerror or str(e)) from e
        with lock:
            yield

    def claim(self, number: int) -> IO[str] | None:
        """Take a trial until the file is closed or this process ends; None if another process has it."""
        return try_lock(self._file(number, "lock"))

    def is_claimed(self, number: int) -> bool:
        file = self.claim(number)
        if file is not None:
            file.close()
        return file is None


def unusable(sweep: Sweep, why: str) -> Stopped:
    """The error where the folder of a sweep can no longer be read or written."""
    if not sweep.exists:
        return Stopped(f"{sweep} is gone: it was removed during the sweep, and its runs with it; start a new sweep")
    free = shutil.disk_usage(sweep.folder).free / 1e6
    return Stopped(
        f"{sweep} cannot be written: {why} ({free:,.1f} MB free). No trial is lost: free some space, and continue with "
        f"python sweep.py -r {sweep}"
    )


def try_lock(path: Path) -> IO[str] | None:
    """The locked file; None if another process has locked it. The system unlocks it when its process ends."""
    file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 (the caller closes it)
    try:
        lock_file(file)
    except OSError:
        file.close()
        return None
    return file


def wait_for(path: Path) -> IO[str]:
    """The locked file. Raises Stopped if another process keeps it."""
    end = time.monotonic() + PATIENCE
    while (file := try_lock(path)) is None:
        if time.monotonic() > end:
            holder = path.read_text(encoding="utf-8").strip() or "another process"
            raise Stopped(f"{path} has been locked by {holder} for {PATIENCE} s; end that process, and try again")
        time.sleep(0.005)
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    return file


def new_folder(save_dir: str, name: str, sweep_id: str | None) -> Path:
    """Where a new sweep is to be; nothing is made yet."""
    if sweep_id is not None and not is_folder_name(sweep_id):
        raise UsageError(f"--sweep-id {sweep_id[:60]!r}: {NOT_A_NAME}")
    folder = Path(save_dir, name, sweep_id or time.strftime("sweep_%Y-%m-%d_%H-%M-%S"))
    if sweep_id is None:
        number = 2
        while folder.exists():
            folder = folder.with_name(time.strftime(f"sweep_%Y-%m-%d_%H-%M-%S-{number}"))
            number += 1
    elif folder.exists() and not {path.name for path in folder.iterdir()} <= NOTHING_YET:
        raise UsageError(f"--sweep-id {sweep_id}: {folder} exists already; continue it with -r {folder}")
    elif folder.exists():  # the process that made it was killed before it wrote sweep.yaml
        shutil.rmtree(folder)
    return folder


def newest(save_dir: str, name: str, sweep_id: str | None) -> Path | None:
    """The sweep of this name (and ID) that was started last, or None."""
    found = [path for path in Path(save_dir, name).glob(f"*/{SPEC}") if sweep_id in (None, path.parent.name)]
    found.sort(key=lambda path: (path.with_name(BASE).stat().st_mtime_ns, path))
    return found[-1].parent if found else None
