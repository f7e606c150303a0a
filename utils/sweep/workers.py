"""Runs the trials of a sweep, several at a time, each in a process of its own that may die at any time."""

import math
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Protocol

from utils.errors import Interrupted, Stopped
from utils.run_folder import CHECKPOINTS
from utils.signals import SIGNALS
from utils.sweep.folder import Sweep, Trial
from utils.sweep.process import NO_SPACE, TAKEN
from utils.sweep.result import objective_points

POLL = 0.2  # seconds between two looks at what other processes do
KILLS = 10  # without a new checkpoint in between, after which a trial counts as failed


class Source(Protocol):
    """Where trials come from, and who wants to know their results."""

    def more(self) -> Trial | None:
        """A new trial, whose file is written."""

    def tell(self, trial: Trial) -> None: ...

    def should_prune(self, trial: Trial, points: list[tuple[int, float]]) -> bool: ...

    def elsewhere(self) -> list[Trial]: ...


class Listed:
    """A set whose trials are all there."""

    def more(self) -> Trial | None:
        return None

    def tell(self, trial: Trial) -> None: ...

    def should_prune(self, trial: Trial, points: list[tuple[int, float]]) -> bool:
        return False

    def elsewhere(self) -> list[Trial]:
        return []


@dataclass
class Job:
    """A trial that a process runs."""

    trial: Trial
    process: Any
    pruned: bool = False
    seen: int = 0  # validations that the source knows


@dataclass
class Workers:
    """run_trial: (folder, number, devices, threads), to be called in a new process. slots: the devices of each job.

    say: prints a line. start: how processes start, fork or spawn.
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
    asked_to_stop: int = 0
    why_stopped: str = ""

    def run(self) -> None:
        """Run all trials. Raises Interrupted after a signal, Stopped if nothing can be written any more."""
        before = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        try:
            while True:
                self._reap()
                if self._stopping:
                    break
                waiting = self._fill()
                if not self.jobs and not waiting:
                    return
                self._prune()
                wait([job.process.sentinel for job in self.jobs.values()], POLL) if self.jobs else time.sleep(POLL)
            self._end_all()
        finally:
            for job in self.jobs.values():  # after an error here
                job.process.kill()
            for number, handler in before.items():
                signal.signal(number, handler)
        if self.why_stopped:
            raise Stopped(self.why_stopped)
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
        for path in sorted((self.sweep.folder / "trials").glob("[0-9]*.json")):
            number = int(path.stem)
            if number in self.finished or number in mine:
                continue
            trial = self.sweep.trial(number)
            if trial.finished:  # by another process
                self.finished.add(number)
                self.source.tell(trial)
            elif self.sweep.is_claimed(number):
                claimed = True
            else:
                return trial, claimed
        return self.source.more(), claimed

    def _begin(self, slot: int, trial: Trial) -> None:
        arguments = (self.sweep.folder, trial.number, self.slots[slot], self.threads, os.getpid())
        process = multiprocessing.get_context(self.start).Process(  # type: ignore[attr-defined]
            target=self.run_trial, args=arguments, name=f"trial {trial.number}"
        )
        # A signal that comes before the new process has its own handlers waits until then
        masked = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS) if hasattr(signal, "pthread_sigmask") else None
        try:
            process.start()
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
                self.why_stopped = _no_space(self.sweep, e.strerror or str(e))
            job.process.close()

    def _ended(self, job: Job) -> None:
        code, trial = job.process.exitcode, self.sweep.trial(job.trial.number)
        if code == TAKEN:
            return
        if code == NO_SPACE:
            self.why_stopped = _no_space(self.sweep, "the disk is full or cannot be written")
            return
        if not trial.finished and (state := self._failure(job, code)):
            claim = self.sweep.claim(trial.number)
            if claim is None:  # another process is at it again
                return
            with claim:
                trial = self.sweep.trial(trial.number)
                if not trial.finished:
                    trial.state, trial.error = state, "" if state == "pruned" else _crash(code)
                    if state == "pruned":
                        points = objective_points(self.sweep.run_folder(trial), self._objective)
                        trial.step, trial.values = points[-1] if points else (0, {})
                    self.sweep.write(trial)
        if trial.finished:
            self.finished.add(trial.number)
            self.source.tell(trial)
            self.say(self._line(trial))

    def _failure(self, job: Job, code: int) -> str:
        """The state of a trial whose process has ended and left no result; empty: it is to be continued."""
        if code in (130, 143) or -code in (signal.SIGINT, signal.SIGTERM):
            return "pruned" if job.pruned else ""
        if -code != getattr(signal, "SIGKILL", 9):
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
        for job in self.jobs.values():
            if job.pruned or isinstance(self.source, Listed):
                continue
            points = objective_points(self.sweep.run_folder(job.trial), self._objective)
            if len(points) > job.seen:
                job.seen = len(points)
                values = [(step, values[self._objective]) for step, values in points]
                if self.source.should_prune(job.trial, values):
                    job.pruned = True
                    job.process.terminate()


def _crash(code: int) -> str:
    if -code == getattr(signal, "SIGKILL", 9):
        return f"killed {KILLS} times without a new checkpoint; most often the machine ran out of memory"
    return f"its process ended with exit code {code}"


def _no_space(sweep: Sweep, why: str) -> str:
    free = shutil.disk_usage(sweep.folder).free / 1e6 if Path(sweep.folder).is_dir() else 0.0
    return (
        f"{sweep} cannot be written: {why} ({free:,.1f} MB free). No trial is lost: free some space, and continue with "
        f"python sweep.py -r {sweep}"
    )
