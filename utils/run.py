"""A run's folder: saved/<name>/<run-id>/, who may write to it, and what stops a run from outside."""

import contextlib
import fcntl
import itertools
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import IO, TYPE_CHECKING, NoReturn

from utils.errors import Interrupted, Refused, Stopped

if TYPE_CHECKING:
    from utils.cli import Arguments
    from utils.config import Config

CHECKPOINTS = "checkpoints"
BEST = "model_best.pth"
NOTHING_YET = {CHECKPOINTS, ".lock", ".tmp-config.yaml"}


class Run:
    """The folder of one run, locked against a second process for as long as this process lives."""

    def __init__(self, folder: Path, checkpoint: Path | None = None, timed: bool = False) -> None:
        self.folder, self.checkpoint = folder, checkpoint
        self.timed = timed  # named by the time, and not made yet
        self._lock: IO[str] | None = None

    def __str__(self) -> str:
        return str(self.folder)

    @property
    def checkpoints(self) -> Path:
        return self.folder / CHECKPOINTS

    @property
    def exists(self) -> bool:
        return not self.timed and (self.folder / "config.yaml").is_file()

    def open(self, config_yaml: str) -> None:
        """Make the folder where it is new, lock it, and write the resolved config into it."""
        try:
            if self.timed:
                self._make()
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            self.lock()
            assert self._lock is not None
            self._lock.truncate(0)
            self._lock.write(f"process {os.getpid()} on {socket.gethostname()}")
            self._lock.flush()
            write_atomic(self.folder / "config.yaml", config_yaml.encode())
        except OSError as e:
            raise self._cannot_write(e) from e

    def _cannot_write(self, error: OSError) -> Refused:
        return Refused(
            f"cannot write to {self.folder}: {error.strerror}; free or mount that place, or give another with "
            f"trainer.save_dir=FOLDER"
        )

    def _make(self) -> None:
        """Make the folder; where a run began in the same second, with a number behind its name."""
        name = self.folder.name
        for number in itertools.count(2):
            try:
                self.folder.mkdir(parents=True)
                self.timed = False
                return
            except FileExistsError:
                self.folder = self.folder.with_name(f"{name}-{number}")

    def lock(self) -> None:
        """Raises Refused, naming the other process, if one already works in this folder."""
        if self._lock:
            return
        try:
            file = open(self.folder / ".lock", "a+")  # noqa: SIM115 (held until the process ends)
        except OSError as e:
            raise self._cannot_write(e) from e
        try:
            # POSIX record locks end with the process, also by kill -9, and do not pass to its data loader workers
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            file.seek(0)
            holder = file.read().strip() or "another process"
            file.close()
            raise Refused(f"{self.folder}: {holder} is writing to this run; stop it first, or start another run") from e
        self._lock = file

    def close(self) -> None:
        if self._lock:
            self._lock.close()
            self._lock = None


def new_run(save_dir: str, name: str, run_id: str | None) -> Run:
    """A run that does not exist yet; nothing is made until `open`."""
    if run_id is not None:
        if not run_id or run_id in (".", "..") or any(c in run_id for c in "/\\\0"):
            raise Refused(f"--run-id {run_id!r}: give a plain folder name, without slashes")
        folder = Path(save_dir, name, run_id)
        if folder.exists() and not _never_began(folder):
            raise Refused(
                f"--run-id {run_id}: {folder} exists already; continue it with -r {folder}, or give another id"
            )
        return Run(folder)
    return Run(Path(save_dir, name, time.strftime("%Y-%m-%d_%H-%M-%S")), timed=True)


def _never_began(folder: Path) -> bool:
    """Was the process that made this folder killed before it could write a config into it?"""
    return not (folder / "config.yaml").exists() and {p.name for p in folder.iterdir()} <= NOTHING_YET


def find_run(resume: str) -> Run:
    """The run that `-r` names, by its folder or by one of its checkpoints; raises Refused where there is none."""
    path = Path(resume)
    if path.is_file():
        run = Run(path.parent.parent, path)
        if path.parent.name != CHECKPOINTS or not (run.folder / "config.yaml").is_file():
            raise Refused(
                f"-r {resume}: this checkpoint lies in no run's folder (RUN/{CHECKPOINTS}/), so there is nothing to "
                f"continue; start a new run from its weights with init_from={resume}"
            )
        return run
    if path.name == CHECKPOINTS:
        path = path.parent
    if (path / "config.yaml").is_file():
        return Run(path)
    of_2020 = sorted(path.glob("checkpoint-epoch*.pth"), key=lambda p: p.stat().st_mtime_ns) + [*path.glob(BEST)]
    if of_2020:
        raise Refused(
            f"-r {resume}: this is a run of the 2020 template, whose position cannot be taken over; start a new run "
            f"from its weights with -c FILE init_from={of_2020[-1]}"
        )
    near = sorted(str(p.parent) for p in path.parent.glob("*/config.yaml")) if path.parent.is_dir() else []
    there = f"; runs there: {', '.join(near[-5:])}" if near else ""
    raise Refused(f"-r {resume}: no run and no checkpoint; give a run's folder, a checkpoint file or auto{there}")


def find_tested(resume: str) -> Path:
    """The checkpoint that test.py's `-r` names: that file, or the best of that run, or else its newest."""
    path = Path(resume)
    if path.is_file():
        return path
    run = find_run(resume)
    best = run.checkpoints / BEST
    others = sorted(run.checkpoints.glob("checkpoint-step*.pth"), key=lambda p: p.stat().st_mtime_ns)
    if not best.exists() and not others:
        raise Refused(f"-r {resume}: this run has no checkpoint yet")
    return best if best.exists() else others[-1]


def newest_run(save_dir: str, name: str, run_id: str | None = None) -> Run | None:
    """The run of this name (and id) that was started or continued last, or None."""
    configs = [p for p in Path(save_dir, name).glob("*/config.yaml") if run_id in (None, p.parent.name)]
    newest = max(configs, key=lambda p: (p.stat().st_mtime_ns, p), default=None)
    return Run(newest.parent) if newest else None


class StopSignal:
    """SIGTERM, SIGINT and SIGUSR1 (SLURM's warning) set a flag; a second one ends the process at once.

    The handler does nothing else, so it is safe during validation, saving and logging.
    """

    BOUNCE = 0.3  # seconds: Ctrl-C reaches a process from the terminal and again from torchrun, milliseconds later

    def __init__(self) -> None:
        self.number = 0
        self._pid = os.getpid()
        self._first = 0.0

    def install(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):  # also where a shell's & has them ignored
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a worker forked a moment ago, before it has set its own
            return
        if self.number in (0, signal.SIGUSR1) and number != self.number:  # the first, or the first after a warning
            self.number, self._first = number, time.monotonic()
        elif time.monotonic() > self._first + self.BOUNCE:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    @property
    def exit_code(self) -> int:
        return 130 if self.number == signal.SIGINT else 143


def write_atomic(path: Path, data: bytes) -> None:
    """Write a small file so that a crash leaves the old one or the new one, never half of it."""
    temporary = path.with_name(f".tmp-{path.name}")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut."""
    with contextlib.suppress(OSError):  # some network file systems cannot sync folders
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def exit_with(main: Callable[[], object]) -> None:
    """Run `main` and exit with the code that the contract gives its outcome."""
    try:
        main()
    except (Refused, Stopped) as e:
        sys.stdout.flush()
        print(f"{'error' if e.exit_code == 2 else 'stopped'}: {e}", file=sys.stderr)
        _exit(e.exit_code)
    except Interrupted as e:
        if str(e):
            print(e, file=sys.stderr)
        _exit(e.exit_code)
    except KeyboardInterrupt:
        _exit(130)
    except Exception:
        traceback.print_exc()
        _exit(1)
    _exit(0)


def _exit(code: int) -> NoReturn:
    """End this process. As one of several at once: gloo's threads now and then abort an orderly end of Python."""
    if "WORLD_SIZE" in os.environ:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def read(args: "Arguments") -> "tuple[Config, Run]":
    """The config and the run that a command line means; the run is new unless `-r` finds one."""
    from utils import config as configs

    found = None
    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0  # by torchrun, after a failure: go on
    if args.resume and args.resume != "auto":
        found = find_run(args.resume)
        if restarted:
            found = Run(found.folder)
    elif args.replay is not None:
        raise Refused("--replay needs the run that the step is of: -r RUN")
    config = configs.load(args.config_files or [found.folder / "config.yaml"], args.overrides)  # type: ignore[union-attr]
    options = config.run.trainer
    if args.resume == "auto" or (restarted and found is None):
        found = newest_run(options.save_dir, config.run.name, args.run_id)
    return config, found or new_run(options.save_dir, config.run.name, args.run_id)
