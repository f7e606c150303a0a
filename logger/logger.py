"""What a person reads while a run goes on: the console, log.txt, and one progress bar."""

import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

LEVELS = {0: logging.WARNING, 1: logging.INFO, 2: logging.DEBUG}  # DEBUG: the log points between two epochs

log = logging.getLogger("groundwork")


class _Console(logging.Handler):
    """Prints above the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        stream = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
        tqdm.write(self.format(record), file=stream)
        stream.flush()


class _Prefix(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text if record.levelno <= logging.INFO else f"{record.levelname.lower()}: {text}"


class _Early(logging.Handler):
    """Keeps what is told before there is a folder for log.txt."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def setup(verbosity: int, main: bool = True) -> None:
    """Start the console: 0 shows warnings, 1 epochs too, 2 log points as well. Ranks but the first show errors."""
    log.handlers.clear()
    log.setLevel(logging.DEBUG)
    log.propagate = False
    console = _Console(LEVELS[verbosity] if main else logging.ERROR)
    console.setFormatter(_Prefix("%(message)s"))
    log.addHandler(console)
    log.addHandler(_Early())


def log_to(folder: Path) -> logging.Handler:
    """Write everything, whatever the verbosity, to log.txt in this folder as well, until the handler is closed."""
    handler = logging.FileHandler(folder / "log.txt", encoding="utf-8")
    handler.setFormatter(_Prefix("%(asctime)s  %(message)s", "%Y-%m-%d %H:%M:%S"))
    log.addHandler(handler)
    for early in [h for h in log.handlers if isinstance(h, _Early)]:
        log.removeHandler(early)
        for record in early.records:
            handler.emit(record)
    return handler


class Progress:
    """A bar over the steps of an epoch on a terminal; nothing where there is none: there, log lines tell."""

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled and sys.stderr.isatty()
        self._bar: Any = None

    def start(self, label: str, total: int, done: int = 0) -> None:
        self.stop()
        if self.enabled:
            self._bar = tqdm(total=total, initial=done, desc=label, unit="step", leave=False, dynamic_ncols=True)

    def step(self) -> None:
        if self._bar is not None:
            self._bar.update()

    def values(self, text: str) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)

    def stop(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def as_text(values: Mapping[str, float]) -> str:
    """`loss 0.1234  accuracy 0.9876`: at most five significant digits, the same width from line to line."""
    return "  ".join(f"{name} {_short(value)}" for name, value in values.items())


def _short(value: float) -> str:
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.3e}"
