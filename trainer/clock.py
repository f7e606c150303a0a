"""Where the time of a run goes: data, forward, backward, optimizer, logging, validation, checkpoints."""

import itertools
import time
from collections import defaultdict
from typing import Any

import torch

COMPUTING = ("forward", "backward", "optimizer")
PARTS = ("data", *COMPUTING, "logging", "validation", "checkpoints", "other")


class Clock:
    """Sums up the seconds of each part of the loop: `mark(name)` says what the time since the last mark went to.

    A GPU computes on while the host goes ahead, and the host waits for it at the log points. So there, in one step
    between two log points, the GPU's own clock is read as well, and says how its time parts into forward, backward and
    optimizer. It never waits for the GPU by itself.
    """

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self.seconds: dict[str, float] = defaultdict(float)
        self._on_gpu: dict[str, float] = defaultdict(float)
        self._events: list[tuple[str, Any]] | None = None  # None: this step is not one of those looked at
        self._last = time.perf_counter()

    def start(self) -> None:
        """What was before is no part of the run."""
        self._last = time.perf_counter()

    def mark(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] += now - self._last
        self._last = now
        if self._events is not None:
            self._record(name)

    def look_closer(self) -> None:
        """The step that begins is one to read the GPU's clock in."""
        if self.cuda:
            self._events = []
            self._record("")

    def waited(self) -> None:
        """All that the GPU was given is done; what the host waited for it is computing."""
        events, self._events = self._events or [], None
        if events:
            events[-1][1].synchronize()  # a step without losses leaves nothing to wait for
        self.mark("waiting")
        for (_, before), (name, after) in itertools.pairwise(events):
            self._on_gpu[name] += before.elapsed_time(after) / 1000

    def _record(self, name: str) -> None:
        assert self._events is not None
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._events.append((name, event))

    def shares(self) -> dict[str, float]:
        """The seconds that went to each part."""
        seconds = dict(self.seconds)
        waiting = seconds.pop("waiting", 0.0)
        on_gpu = {name: self._on_gpu[name] for name in COMPUTING}
        if total := sum(on_gpu.values()):
            computing = waiting + sum(seconds.get(name, 0.0) for name in COMPUTING)
            seconds |= {name: computing * share / total for name, share in on_gpu.items()}
        else:
            seconds["logging"] = seconds.get("logging", 0.0) + waiting
        return {part: seconds[part] for part in PARTS if part in seconds}

    def __str__(self) -> str:
        seconds = self.shares()
        total = sum(seconds.values())
        rows = [f"{name} {share / total:.0%}" for name, share in seconds.items()]
        return f"time: {total:,.1f} s  " + "  ".join(rows)
