"""The process of one trial: it claims the trial, trains, and writes the result down. It may be killed at any time."""

import contextlib
import errno
import io
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from utils.config import load
from utils.config.config import _import_torch as import_torch
from utils.errors import NotSaved, Stopped, UsageError
from utils.exit_codes import exit_with
from utils.run_folder import Run
from utils.signals import SIGNALS
from utils.sweep.folder import Sweep, Trial
from utils.sweep.points import overrides_of
from utils.sweep.result import normal, result

TAKEN, NO_SPACE = 75, 74  # exit codes: another process has the trial; nothing can be written
INTERRUPTED = (130, 143)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO)
Train = Callable[..., Any]  # train.run


def run_trial(train: Train, folder: Path, number: int, devices: str | None, threads: int, parent: int | None) -> None:
    """train: train.run. threads: of torch. parent: the process that forked this one, with which it ends; None: a fork
    server, which ends with the process that uses it."""
    sweep = Sweep.open(folder)
    _detach(sweep.output(sweep.trial(number)), parent)
    exit_with(lambda: _run(train, sweep, number, devices, threads))


def _run(train: Train, sweep: Sweep, number: int, devices: str | None, threads: int) -> int:
    claim = sweep.claim(number)
    if claim is None:
        return TAKEN
    with claim:
        trial, began = sweep.trial(number), time.monotonic()
        if trial.finished:
            return 0
        error, code = None, 0
        try:
            code = _train(train, sweep, trial, devices, threads)
        except Exception as e:
            error = e
        try:
            if error is not None:
                _fail(trial, error)
            trial.seconds += time.monotonic() - began
            sweep.write(trial)
        except OSError as e:
            with contextlib.suppress(OSError):
                print(f"{sweep} cannot be written: {e}", file=sys.stderr)
            return NO_SPACE
        if error is not None:
            raise error
        return code


def _train(train: Train, sweep: Sweep, trial: Trial, devices: str | None, threads: int) -> int:
    """Train, and note the result in `trial`; the exit code of the run."""
    import_torch()
    import torch

    from utils.process import launch

    torch.set_num_threads(threads)
    config, run = load([sweep.base], overrides_of(trial.keys)), Run(sweep.run_folder(trial))
    if not run.exists and launch.needed(config.run.n_gpu, devices) > 1:
        run.open(config.to_yaml())  # several processes find the run by its folder
        run.close()
    found = train(config, run, devices)
    if found.exit_code in INTERRUPTED:
        return int(found.exit_code)
    if found.exit_code not in (0, 4):  # of several processes; 4: it has used up the time that each trial gets
        trial.state, trial.error = "failed", found.why
        return int(found.exit_code)
    trial.state = "done"
    trial.step, trial.values = result(sweep.run_folder(trial), found.best_step if found.best is not None else 0)
    if found.best is not None:
        trial.values[normal(config.run.trainer.monitor).split()[1]] = found.best
    return 0


def _fail(trial: Trial, error: Exception) -> None:
    """Note why it failed. Raises OSError if that is the disk: then the trial is to be continued."""
    cause = error if isinstance(error, OSError) else error.__cause__
    if isinstance(cause, OSError) and cause.errno in FULL:
        raise cause
    if isinstance(error, NotSaved):
        raise OSError(str(error))
    plain = isinstance(error, (UsageError, Stopped))
    trial.state = "failed"
    trial.error = f"{'' if plain else f'{type(error).__name__}: '}{error}".partition("\n")[0]


def _detach(output: Path, parent: int | None) -> None:
    """Its own process group, the signals of a new process, and output to a file. Ends, saved, when its parent ends."""
    if hasattr(os, "setpgrp"):
        os.setpgrp()  # Ctrl-C in the terminal reaches the parent alone, which passes it on once
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
        started_by = multiprocessing.parent_process()
        gone = started_by is None or not started_by.is_alive() if parent is None else os.getppid() != parent
        if gone:  # it ended before that
            os._exit(143)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    fd = os.open(output, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o666)
    sys.stdout, sys.stderr = _Output.of(1), _Output.of(2)  # before the next line: those before may close 1 and 2
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)


class _Output(io.FileIO):
    """A file for what is printed: where the disk is full, it is lost, and nothing fails for that."""

    def write(self, data: Any) -> int:
        with contextlib.suppress(OSError):
            super().write(data)
        return len(data)

    @classmethod
    def of(cls, fd: int) -> io.TextIOWrapper:
        binary: Any = cls(fd, "w", closefd=False)
        return io.TextIOWrapper(binary, encoding="utf-8", errors="replace", write_through=True)
