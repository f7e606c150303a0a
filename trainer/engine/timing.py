"""Measures where the time of a run goes: data, forward, backward, optimizer, logging, validation, checkpoints."""

import contextlib
import itertools
from collections import defaultdict
from time import perf_counter
from types import TracebackType
from typing import Any

import torch

from utils.process import launch

COMPUTING = ("forward", "backward", "optimizer")
PHASES = ("data", *COMPUTING, "logging", "validation", "checkpoints", "other")


class Clock:
    """Adds up the seconds of each phase: `with clock.phase("data"):`. Time in no phase is `other`.

    A GPU computes on while the host goes ahead, and the host waits for it at the log points. There, in one step between
    two log points, the GPU's own clock is read too: it says how its time splits into forward, backward and optimizer.
    This never waits for the GPU by itself.
    """

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self._on_gpu: dict[str, float] = defaultdict(float)
        self._events: list[tuple[str, Any]] | None = None  # None: this step is not one of those measured
        self.phases = {name: _Phase(self, name) for name in (*PHASES, "waiting")}
        self._inner = self.phases["other"]  # the innermost phase that runs
        self._last = perf_counter()

    def start(self) -> None:
        """Start counting: earlier time is not part of the run."""
        self._last = perf_counter()

    def phase(self, name: str) -> contextlib.AbstractContextManager[None]:
        """A context manager that times what is in it. Phases nest; each second counts for the innermost."""
        phase = self.phases[name]
        return phase if phase.outer is None else contextlib.nullcontext()  # one in itself changes nothing

    def measure_device(self) -> None:
        """The step that begins is one to read the GPU's clock in."""
        if self.cuda:
            self._events = []
            self._record("")

    def waited(self) -> None:
        """The host has just waited for the device; that time is the device's computing."""
        events, self._events = self._events or [], None
        if events:
            events[-1][1].synchronize()  # without losses, there is nothing to wait for
        now = perf_counter()
        self.phases["waiting"].seconds += now - self._last
        self._last = now
        for (_, before), (name, after) in itertools.pairwise(events):
            self._on_gpu[name] += before.elapsed_time(after) / 1000

    def _record(self, name: str) -> None:
        assert self._events is not None
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._events.append((name, event))

    def shares(self) -> dict[str, float]:
        """The seconds of each phase that took any."""
        seconds = {name: phase.seconds for name, phase in self.phases.items()}
        waiting = seconds.pop("waiting")
        on_gpu = {name: self._on_gpu[name] for name in COMPUTING}
        if total := sum(on_gpu.values()):
            computing = waiting + sum(seconds[name] for name in COMPUTING)
            seconds |= {name: computing * share / total for name, share in on_gpu.items()}
        else:
            seconds["logging"] += waiting
        return {phase: seconds[phase] for phase in PHASES if seconds.get(phase)}

    def __str__(self) -> str:
        seconds = self.shares()
        total = sum(seconds.values())
        rows = [f"{name} {share / total:.0%}" for name, share in seconds.items()]
        return f"time: {total:,.1f} s  " + "  ".join(rows)


class _Phase:
    """One object per phase, entered again and again. Its few attributes keep it at 1% of a small step."""

    __slots__ = ("clock", "name", "outer", "seconds")

    def __init__(self, clock: Clock, name: str) -> None:
        self.clock, self.name, self.seconds = clock, name, 0.0
        self.outer: _Phase | None = None  # while this one runs

    def __enter__(self) -> None:
        now, clock = perf_counter(), self.clock
        self.outer = outer = clock._inner
        outer.seconds += now - clock._last
        clock._last = now
        clock._inner = self
        if clock._events is not None:
            clock._record(outer.name)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        now, clock = perf_counter(), self.clock
        self.seconds += now - clock._last
        clock._last = now
        assert self.outer is not None
        clock._inner, self.outer = self.outer, None
        if clock._events is not None:
            clock._record(self.name)


MATTERS_FROM = 10.0  # seconds: of a shorter run, the shares say little
LIMITS = {"data": 0.3, "checkpoints": 0.2, "validation": 0.4, "logging": 0.2, "other": 0.3}  # of the time


class Advisor:
    """What to change where a part other than computing takes much of the time."""

    def __init__(self, num_workers: int, in_memory: bool, cores: int | None = None) -> None:
        """cores: that this process may use."""
        self.num_workers, self.in_memory = num_workers, in_memory
        self.cores = cores or launch.cores()

    def advice(self, shares: dict[str, float]) -> list[str]:
        """One line for each phase that takes too much. shares: seconds of each phase."""
        total = sum(shares.values())
        if total < MATTERS_FROM:
            return []
        high = [(shares[name] / total, name) for name, limit in LIMITS.items() if shares.get(name, 0) > limit * total]
        return [f"{share:.0%} of the time {self._what(name)}" for share, name in sorted(high, reverse=True)]

    def _what(self, name: str) -> str:
        return {
            "data": f"was spent waiting for data: {self._data()}",
            "checkpoints": "went into checkpoints: raise trainer.save_period or save_steps",
            "validation": "went into validation: raise trainer.valid_period or valid_steps, or validate on fewer "
            "samples",
            "logging": "went into logging: raise trainer.log_steps, or log less often in callbacks",
            "other": "went into callbacks and the like: let them do less after each step",
        }[name]

    def _data(self) -> str:
        if self.in_memory:
            return "build whole batches in the data set's __getitems__, or set data_loader.args.resident=true on a GPU"
        if self.num_workers == 0 and self.cores > 1:
            return f"set data_loader.args.num_workers={min(self.cores, 4)}"
        if 0 < self.num_workers < self.cores:
            return (
                f"raise data_loader.args.num_workers from {self.num_workers} to {min(self.cores, 2 * self.num_workers)}"
            )
        return "all cores read already: make a sample cheaper, such as smaller image files and fewer transforms"
