"""What a person reads while a run goes on: the console, log.txt, and one progress bar."""

import logging
import shutil
import sys
from collections.abc import Mapping, Sequence
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any

from tqdm import tqdm

from logger.appended import Appended

LEVELS = {0: logging.WARNING, 1: logging.INFO, 2: logging.DEBUG}  # DEBUG: the log points between two epochs

log = logging.getLogger("groundwork")


def on_terminal() -> bool:
    """Does a person look on, not a file or a pipe?"""
    return sys.stdout.isatty() and sys.stderr.isatty()


class _Console(logging.Handler):
    """Prints above the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        stream = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
        text = self.format(record)
        tqdm.write(fold(text, shutil.get_terminal_size().columns) if stream.isatty() else text, file=stream)
        stream.flush()


class _Format(logging.Formatter):
    """The message; before it what it is a case of, behind it the speed that a progress bar would show."""

    def __init__(self, form: str, time: str | None = None, speed: bool = True) -> None:
        super().__init__(form, time)
        self.speed = speed

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record) + (getattr(record, "speed", "") if self.speed else "")
        return text if record.levelno <= logging.INFO else f"{record.levelname.lower()}: {text}"


def setup(verbosity: int, main: bool = True) -> None:
    """Start the console: 0 shows warnings, 1 epochs too, 2 log points as well. Ranks but the first show errors."""
    log.handlers.clear()
    log.setLevel(logging.DEBUG)
    log.propagate = False
    bar = verbosity == 2 and on_terminal()  # it tells of the log points
    console = _Console((logging.INFO if bar else LEVELS[verbosity]) if main else logging.ERROR)
    console.setFormatter(_Format("%(message)s", speed=not bar))
    log.addHandler(console)
    log.addHandler(MemoryHandler(sys.maxsize))  # what is told before there is a folder for log.txt


class _File(logging.Handler):
    """Writes to a file; a full disk only delays it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.file = Appended(path)

    def emit(self, record: logging.LogRecord) -> None:
        self.file.write(f"{self.format(record)}\n".encode())


def log_to(folder: Path) -> logging.Handler:
    """Write everything, whatever the verbosity, to log.txt in this folder as well, until the handler is removed."""
    handler = _File(folder / "log.txt")
    handler.setFormatter(_Format("%(asctime)s  %(message)s", "%Y-%m-%d %H:%M:%S"))
    log.addHandler(handler)
    for early in [h for h in log.handlers if isinstance(h, MemoryHandler)]:
        log.removeHandler(early)
        early.setTarget(handler)
        early.close()  # hands on what it holds
    return handler


class _Bar(tqdm):
    """One line: label, bar, steps, and as many of the values as the terminal has room for."""

    monitor_interval = 0  # no thread: each update looks at the time

    def __init__(self, values: Sequence[str], **kwargs: Any) -> None:
        self.values = values
        super().__init__(**kwargs)

    def __str__(self) -> str:
        room = (self.format_dict["ncols"] or 80) - 1
        steps = f"{self.n}/{self.total}"
        length = len(self.desc) + len(steps) + 2 + 10  # a bar of 10
        shown = []
        for value in self.values:
            length += 2 + len(value)
            if length > room:
                break
            shown.append(value)
        done = round(10 * self.n / (self.total or 1))
        full, empty = "#-" if self.ascii is True else "█░"
        bar = full * done + empty * (10 - done)
        return "  ".join([f"{self.desc} {bar} {steps}", *shown])[:room]


class Progress:
    """A bar over the steps of an epoch on a terminal; nothing where there is none: there, log lines tell."""

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled and on_terminal()
        self._bar: Any = None
        self._values: Sequence[str] = ()

    def start(self, label: str, total: int, done: int = 0, delay: float = 0.5) -> None:
        """A new bar, shown after `delay` seconds: one that goes at once would only flicker."""
        self.stop()
        if self.enabled:
            options = {"leave": False, "dynamic_ncols": True, "miniters": 1, "delay": delay}
            self._bar = _Bar(self._values, desc=label, total=total, initial=done, **options)

    def step(self) -> None:
        if self._bar is not None:
            self._bar.update()

    def values(self, values: Sequence[str]) -> None:
        """What stands behind the bars from now on, the first that must not be missing first."""
        self._values = values
        if self._bar is not None:
            self._bar.values = values

    def stop(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def as_text(values: Mapping[str, float]) -> list[str]:
    """`loss 0.1234`, `lr 0.00123`: of the same width from line to line as far as that goes."""
    return [f"{name} {_short(name, value)}" for name, value in values.items()]


def _short(name: str, value: float) -> str:
    fixed = not name.startswith("lr") and (1e-3 <= abs(value) < 1e4 or value == 0)
    return f"{value:.4f}" if fixed else f"{value:.3g}"


def fold(text: str, width: int) -> str:
    """Break lines that are too long for a terminal, where two spaces part one thing from the next."""
    lines = []
    for line in text.split("\n"):
        while len(line) > width:
            start = len(line) - len(line.lstrip())
            at = line.rfind("  ", start + 1, width + 1)
            if at < 0:
                break
            lines.append(line[:at].rstrip())
            line = "    " + line[at:].strip()
        lines.append(line)
    return "\n".join(lines)
