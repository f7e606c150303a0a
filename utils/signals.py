"""What asks a run to stop: a signal, or the end of its time budget."""

import math
import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

SIGUSR1: int | None = getattr(signal, "SIGUSR1", None)  # SLURM's warning; Windows has none
TIME_UP = 1  # in place of a signal, and below all real ones: a signal that comes as well decides the exit code
SIGNALS = [number for number in (signal.SIGTERM, signal.SIGINT, SIGUSR1) if number is not None]


class StopSignal:
    """The first SIGTERM, SIGINT or SIGUSR1 sets `number`; a second one ends the process at once.

    budget: seconds after which `poll` returns TIME_UP.

    The handler does nothing else, so it is safe during validation, saving and logging.
    """

    BOUNCE = 0.3  # seconds: Ctrl-C arrives from the terminal and, milliseconds later, again from torchrun

    def __init__(self, budget: float | None = None) -> None:
        self.number = 0
        self._deadline = math.inf if budget is None else time.monotonic() + budget
        self._pid = os.getpid()
        self._first = 0.0
        self._previous: dict[int, Callable[..., Any] | int | None] = {}

    def install(self) -> None:
        """Handle the signals, also those that a shell's `&` ignores. Only the main thread can; others do nothing."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            previous = signal.signal(number, self._on_signal)
            self._previous.setdefault(number, previous)

    def poll(self) -> int:
        """The number of the signal that came, TIME_UP, or 0."""
        if self.number == 0 and time.monotonic() > self._deadline:
            self.number = TIME_UP
        return self.number

    def restore(self) -> None:
        """Put back the handlers that `install` replaced, once the same signal cannot come again."""
        if self.number and self._previous:
            time.sleep(max(0.0, self._first + self.BOUNCE - time.monotonic()))
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not set from Python
        self._previous.clear()

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a data loader worker that has not set its own handlers yet
            return
        if self.number in (0, TIME_UP, SIGUSR1) and number != self.number:  # the first, or the first after a warning
            self.number, self._first = number, time.monotonic()
        elif time.monotonic() > self._first + self.BOUNCE:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    @property
    def exit_code(self) -> int:
        return {signal.SIGINT: 130, TIME_UP: 4}.get(self.number, 143)

    @property
    def reason(self) -> str:
        return "the end of its time budget (trainer.max_time)" if self.number == TIME_UP else "a signal"
