"""A file that only grows, on a disk that may be full."""

import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

from logger import NAME
from utils.files import write_atomic

log = logging.getLogger(NAME)


class AppendOnlyFile:
    """Appends to a file; what the disk does not take is kept and written first next time, so nothing is lost.

    The file is opened for each write (20 us). So a folder that was deleted or unmounted is noticed, and the file is
    written again when it is back.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.unwritten = bytearray()
        self.error: OSError | None = None  # of the last attempt
        self._size = 0

    def write(self, data: bytes) -> None:
        self.unwritten += data
        self.flush()

    def flush(self) -> None:
        """Try to write what is left. Logs the first failure and the recovery."""
        if not self.unwritten:
            return
        failed_before = self.error is not None
        try:
            with open(self.path, "ab", buffering=0) as file:
                while self.unwritten:  # an almost full disk takes only a part
                    del self.unwritten[: file.write(self.unwritten)]
                self._size = os.fstat(file.fileno()).st_size
        except OSError as e:
            self.error = e
            if not failed_before:
                reason = os.strerror(e.errno or 0)
                log.error(f"{self.path}: {reason}; new lines are kept in memory and written later")
        else:
            self.error = None
            if failed_before:
                log.info(f"{self.path}: writing works again; no line is missing")

    def cut(self, size: int, keep: Callable[[bytes], bool]) -> None:
        """Drop the lines after the first `size` bytes, except complete ones that `keep` wants."""
        if self.size < size:
            log.warning(
                f"{self.path}: {size - self.size} bytes that the checkpoint knows are missing, and the points in them"
            )
            size = self.path.read_bytes().rfind(b"\n") + 1 if self.path.exists() else 0
        if not self.path.exists():
            return
        data = self.path.read_bytes()
        lines = data[size:].splitlines(keepends=True)
        kept = b"".join(line for line in lines if line.endswith(b"\n") and keep(line))
        if not kept:
            os.truncate(self.path, size)
        elif data[size:] != kept:
            write_atomic(self.path, data[:size] + kept)  # a kill at any moment leaves the old or the new file

    @property
    def size(self) -> int:
        """Size in bytes; the last known size while the file cannot be seen."""
        with contextlib.suppress(OSError):
            if self.path.is_file():
                self._size = self.path.stat().st_size
        return self._size
