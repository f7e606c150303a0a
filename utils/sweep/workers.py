"""Runs the trials of a sweep, several at a time, each in a process of its own that may die at any time."""

import contextlib
import math
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from typing import Any

from utils.errors import Interrupted, Stopped, UsageError
from utils.run_folder import CHECKPOINTS
from utils.signals import SIGNALS
from utils.sweep.folder import Sweep, Trial, unusable
from utils.sweep.process import FULL, NO_SPACE, TAKEN
from utils.sweep.result import metrics_size, objective_points
from utils.sweep.table import repeats

POLL = 0.2  # seconds between two looks at what other processes do
SERVER_DIED = 255  # exit code of multiprocessing for a process whose fork server has died
ENGINE = ("utils.", "logger.")  # what a fork server imports beside torch
TRIES = 10  # to start a process
KILLS = 10  # without a new checkpoint in between, after which a trial counts as failed

ALIKE = 3  # trials that fail with the same error, before any other ends, after which no more are tried


class Source:
    """Where more trials come from: nowhere, for a set whose trials are all there. A search overrides this."""

    prunes = False  # may `should_prune` say yes? If not, nobody reads the metrics of running trials

    def more(self) -> Trial | None:
        """A new trial, whose file is written; None if there are enough."""
        return None

    def should_prune(self, trial: Trial, points: list[tuple[int, float]]) -> bool:
        """points: (step, objective) of all validations so far."""
        return False

    def elsewhere(self) -> list[Trial]:
        """The trials that other folders run."""
        return []


@dataclass
class Job:
    """A trial that a process runs."""

    trial: Trial
    process: Any
    pruned: bool = False
    size: int = 0  # of metrics.jsonl when it was last read
    seen: int = 0  # validations that the source knows


@dataclass
class Workers:
    """run_trial: (folder, number, devices, threads), to be called in a new process. slots: the devices of each job.

    say: prints a line. start: how processes start: fork, forkserver or spawn.
    """

    sweep: Sweep
    source: Source
    run_trial: Callable[..., None]
    slots: Sequence[str | None]
    threads: int
    start: str
    say: Callable[[str], None]
    jobs: dict[int, Job] = field(default_factory=dict)  # by slot
    finished: set[int] = field(default_factory=set)
    kills: dict[int, tuple[list[str], int]] = field(default_factory=dict)  # trial -> (its checkpoints, kills since)
    errors: list[str] = field(default_factory=list)  # of the trials that ended, in that order; "" for a good one
    asked_to_stop: int = 0
    why_stopped: Stopped | UsageError | None = None

    def run(self) -> None:
        """Run all trials. Raises Interrupted after a signal; and Stopped or UsageError if it cannot go on, once what
        runs has saved and ended."""
        before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        try:
            while True:
                self._reap()
                if self._stopping:
                    break
                try:
                    waiting = self._fill()
                    self._prune()
                except (Stopped, UsageError) as e:  # what runs can still save
                    self.why_stopped = e
                    break
                except OSError as e:
                    if self.sweep.exists and e.errno not in FULL:
                        raise
                    self.why_stopped = unusable(self.sweep, e.strerror or str(e))
                    break
                if not self.jobs and not waiting:
                    return
                wait([job.process.sentinel for job in self.jobs.values()], POLL) if self.jobs else time.sleep(POLL)
            self._end_all()
        finally:
            for job in self.jobs.values():  # after an error here
                job.process.kill()
            for number, handler in before.items():
                signal.signal(number, handler)
        if self.why_stopped:
            raise self.why_stopped
        text = f"interrupted; what ran is saved. Continue with: python sweep.py -r {self.sweep}"
        raise Interrupted(text, 130 if self.asked_to_stop == signal.SIGINT else 143)

    @property
    def _objective(self) -> str:
        return str(self.sweep.spec["objectives"][0].split()[1])

    @property
    def _stopping(self) -> bool:
        return bool(self.asked_to_stop or self.why_stopped)

    def _on_signal(self, number: int, _: Any) -> None:
        if self.asked_to_stop:  # the second: end at once; what is on the disk remains
            for job in self.jobs.values():
                job.process.kill()
        self.asked_to_stop = number

    # -- starting -----------------------------------------------------------------------------------------------------

    def _fill(self) -> bool:
        """Start trials in all free slots; are there any that another process runs?"""
        waiting = False
        for slot in range(len(self.slots)):
            if slot in self.jobs or self._stopping:
                continue
            trial, waiting = self._next()
            if trial is None:
                break
            self._begin(slot, trial)
        return waiting

    def _next(self) -> tuple[Trial | None, bool]:
        """A trial that nobody runs: one that was interrupted or has not begun, or else a new one."""
        mine = {job.trial.number for job in self.jobs.values()}
        claimed = False
        for number in self.sweep.numbers():
            if number in self.finished or number in mine:
                continue
            trial = self.sweep.trial(number)
            if trial.finished:  # by another process
                self.finished.add(number)
            elif self.sweep.is_claimed(number):
                claimed = True
            else:
                return trial, claimed
        return self.source.more(), claimed

    def _begin(self, slot: int, trial: Trial) -> None:
        parent = None if self.start == "forkserver" else os.getpid()
        arguments = (self.sweep.folder, trial.number, self.slots[slot], self.threads, parent)
        process = _context(self.start).Process(target=self.run_trial, args=arguments, name=f"trial {trial.number}")
        # A signal that comes before the new process has its own handlers waits until then
        masked = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS) if hasattr(signal, "pthread_sigmask") else None
        try:
            for _ in range(TRIES):
                with contextlib.suppress(EOFError, ConnectionError):  # a fork server that has just been killed
                    process.start()
                    break
                time.sleep(POLL)
            else:
                raise Stopped(
                    f"trial {trial.number} cannot start: the fork server ends at once; is there enough memory?"
                )
        finally:
            if masked is not None:
                signal.pthread_sigmask(signal.SIG_SETMASK, masked)
        self.jobs[slot] = Job(trial, process)

    # -- ending -------------------------------------------------------------------------------------------------------

    def _reap(self) -> None:
        for slot, job in list(self.jobs.items()):
            if job.process.is_alive():
                continue
            job.process.join()
            del self.jobs[slot]
            try:
                self._ended(job)
            except OSError as e:
                self.why_stopped = unusable(self.sweep, e.strerror or str(e))
            except (Stopped, UsageError) as e:
                self.why_stopped = e
            job.process.close()

    def _ended(self, job: Job) -> None:
        code, trial = job.process.exitcode, self.sweep.trial(job.trial.number)
        if code == TAKEN:
            return
        if code == NO_SPACE:
            self.why_stopped = unusable(self.sweep, "the disk is full or cannot be written")
            return
        if not trial.finished and (state := self._failure(job, code)):
            claim = self.sweep.claim(trial.number)
            if claim is None:  # another process has taken it
                return
            with claim:
                trial = self.sweep.trial(trial.number)
                if not trial.finished:
                    trial.state = state
                    if state == "failed":
                        trial.error = _crash(code)
                    elif points := objective_points(self.sweep.run_folder(trial), self._objective):
                        trial.step, trial.values = points[-1]
                    self.sweep.write(trial)
        if trial.finished:
            self.finished.add(trial.number)
            self.say(self._line(trial))
            self.errors.append(trial.error)
            if len(self.errors) == ALIKE and trial.error and self.errors == [trial.error] * ALIKE and self._differ():
                self.why_stopped = Stopped(
                    f"the first {ALIKE} trials failed alike: {trial.error}. Remove the cause, and continue with "
                    f"python sweep.py -r {self.sweep} --retry; or without --retry, to run only the others"
                )

    def _differ(self) -> bool:
        """Have the finished trials no value of a key in common that could explain their failure?"""
        tried = [self.sweep.trial(number).keys for number in sorted(self.finished)]
        keys = [key for key in tried[0] if not repeats(key)]
        return all(len({repr(values.get(key)) for values in tried}) > 1 for key in keys)

    def _failure(self, job: Job, code: int) -> str:
        """The state of a trial whose process has ended and left no result; empty: it is to be continued."""
        if code in (130, 143) or -code in (signal.SIGINT, signal.SIGTERM):
            return "pruned" if job.pruned else ""
        if -code != getattr(signal, "SIGKILL", 9) and (self.start, code) != ("forkserver", SERVER_DIED):
            return "failed"
        folder = self.sweep.run_folder(job.trial) / CHECKPOINTS
        there = sorted(os.listdir(folder)) if folder.is_dir() else []
        known, kills = self.kills.get(job.trial.number, ([], 0))
        kills = kills + 1 if known == there else 1
        self.kills[job.trial.number] = (there, kills)
        return "failed" if kills >= KILLS else ""

    def _line(self, trial: Trial) -> str:
        start = f"trial {trial.number} ({trial.text})" if trial.keys else f"trial {trial.number}"
        if trial.state == "failed":
            return f"{start} failed: {trial.error}; see {self.sweep.output(trial)}"
        value = trial.values.get(self._objective, math.nan)
        pruned = ", pruned" if trial.state == "pruned" else ""
        return f"{start}: {self._objective} {value:.6g} at step {trial.step}{pruned}"

    def _end_all(self) -> None:
        """Let all save and end."""
        for job in self.jobs.values():
            job.process.terminate()
        while self.jobs:
            wait([job.process.sentinel for job in self.jobs.values()], POLL)
            self._reap()

    def _prune(self) -> None:
        for job in self.jobs.values() if self.source.prunes else ():
            folder = self.sweep.run_folder(job.trial)
            size = metrics_size(folder)
            if job.pruned or size == job.size:
                continue
            job.size = size
            points = [(step, values[self._objective]) for step, values in objective_points(folder, self._objective)]
            if len(points) > job.seen and self.source.should_prune(job.trial, points):
                job.pruned = True
                job.process.terminate()
            job.seen = len(points)


def _context(start: str) -> Any:
    """How processes start. A fork server has imported torch, and each trial is forked from it. Unlike this process, it
    has never used CUDA, which a forked process could not use then; so it imports nothing that is yours."""
    context: Any = multiprocessing.get_context(start)
    if start != "fork" and hasattr(signal, "pthread_sigmask"):  # Windows has neither such signals nor the tracker
        resource_tracker.ensure_running()  # its start would unblock the signals that `_begin` blocks
    if start == "forkserver":
        context.set_forkserver_preload(["torch", *(name for name in sys.modules if name.startswith(ENGINE))])
    return context


def _crash(code: int) -> str:
    if -code == getattr(signal, "SIGKILL", 9) or code == SERVER_DIED:
        return f"killed {KILLS} times without a new checkpoint; most often the machine ran out of memory"
    return f"its process ended with exit code {code}"
