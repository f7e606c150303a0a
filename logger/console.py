"""What a person reads during a run: the console and log.txt."""

import contextlib
import logging
import shutil
import sys
from collections.abc import Iterator, Mapping
from logging.handlers import MemoryHandler
from pathlib import Path

from tqdm import tqdm

from logger import NAME
from logger.append_only_file import AppendOnlyFile
from logger.progress_bar import can_redraw
from utils.exit_codes import discard

LEVELS = {0: logging.WARNING, 1: logging.INFO, 2: logging.DEBUG}  # DEBUG: the log points within an epoch

log = logging.getLogger(NAME)


def setup(verbosity: int, main: bool = True) -> None:
    """Start the console.

    verbosity: 0 shows warnings, 1 epochs too, 2 log points as well.
    main: whether this is rank 0; the other ranks show only errors.
    """
    log.handlers.clear()
    log.setLevel(logging.DEBUG)
    log.propagate = False
    has_bar = verbosity == 2 and can_redraw()  # it shows the log points
    level = logging.INFO if has_bar else LEVELS[verbosity]
    console = _ConsoleHandler(level if main else logging.ERROR)
    console.setFormatter(_Formatter("%(message)s", speed=not has_bar))
    log.addHandler(console)
    log.addHandler(MemoryHandler(sys.maxsize))  # holds the lines that come before log.txt has a folder


@contextlib.contextmanager
def started(verbosity: int, main: bool = True) -> Iterator[None]:
    """`setup` for one run: handlers, level and propagation are restored afterwards."""
    handlers, level, propagate = list(log.handlers), log.level, log.propagate
    setup(verbosity, main)
    try:
        yield
    finally:
        for handler in log.handlers:
            if handler not in handlers:
                handler.close()
        log.handlers[:] = handlers
        log.setLevel(level)
        log.propagate = propagate


def log_to(folder: Path) -> logging.Handler:
    """Write everything, whatever the verbosity, to log.txt in this folder as well, until the handler is removed."""
    handler = _FileHandler(folder / "log.txt")
    handler.setFormatter(_Formatter("%(asctime)s  %(message)s", "%Y-%m-%d %H:%M:%S"))
    log.addHandler(handler)
    for early in [h for h in log.handlers if isinstance(h, MemoryHandler)]:
        log.removeHandler(early)
        early.setTarget(handler)
        early.close()  # passes on the lines that it holds
    return handler


class _ConsoleHandler(logging.Handler):
    """Prints above the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        stream = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
        text = self.format(record)
        if stream.isatty():
            text = fold(text, shutil.get_terminal_size().columns)
        encoding = getattr(stream, "encoding", None) or "utf-8"
        text = text.encode(encoding, "backslashreplace").decode(encoding)  # a letter that it lacks ends no run
        try:
            tqdm.write(text, file=stream)
            stream.flush()
        except OSError as e:  # `| head -1` closed it, or its disk is full: no reason to end a run
            discard(stream)
            if stream is sys.stdout:
                log.warning(f"cannot print more ({e.strerror}); the run continues, and log.txt has all lines")


class _FileHandler(logging.Handler):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.file = AppendOnlyFile(path)

    def emit(self, record: logging.LogRecord) -> None:
        self.file.write(f"{self.format(record)}\n".encode())


class _Formatter(logging.Formatter):
    """The message, after `warning: ` or `error: ` if it is one, followed by the speed, which a bar shows itself."""

    def __init__(self, fmt: str, datefmt: str | None = None, speed: bool = True) -> None:
        super().__init__(fmt, datefmt)
        self.speed = speed

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if self.speed:
            text += getattr(record, "speed", "")
        return text if record.levelno <= logging.INFO else f"{record.levelname.lower()}: {text}"


def as_text(values: Mapping[str, float], best: str = "") -> list[str]:
    """`loss 0.1234`, `lr 0.00123`: as far as possible with the same width from line to line. best: this name's value
    is marked."""
    return [f"{name} {_short(name, value)}{' best' if name == best else ''}" for name, value in values.items()]


def _short(name: str, value: float) -> str:
    return f"{value:.3g}" if name.startswith("lr") else digits(value)


def digits(value: float) -> str:
    """`0.1235`, `1.23e-05`: four digits after the point where they say enough."""
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.3g}"


def fold(text: str, width: int) -> str:
    """Break lines that are longer than `width` where two spaces separate their parts, or else after a comma. What has
    neither, such as a command, stays in one piece: it can be copied.
    """
    lines = []
    for line in text.split("\n"):
        while len(line) > width:
            start = len(line) - len(line.lstrip())
            gap = line.rfind("  ", start + 1, width + 1)
            if gap < 0 and "python " not in line:
                gap = line.rfind(", ", start + 1, width) + 1
            if gap <= 0:
                gap = line.find("  ", max(width, start + 1))
            if gap < 0:
                break
            lines.append(line[:gap].rstrip())
            line = "    " + line[gap:].strip()
        lines.append(line)
    return "\n".join(lines)
