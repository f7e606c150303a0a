"""A file that only grows, on a disk that may be full."""

import contextlib
import logging
import os
from pathlib import Path

log = logging.getLogger("groundwork")


class Appended:
    """What cannot be written now is kept, and written before what comes next: nothing is lost, nothing stands twice.

    The file is opened for each write (20 us), so that a folder that was deleted or unmounted is noticed, not written
    to out of sight, and is used again once it is back.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.unwritten = bytearray()
        self.error: OSError | None = None  # of the last try
        self._size = 0

    def write(self, data: bytes) -> None:
        self.unwritten += data
        self.flush()

    def flush(self) -> None:
        """Try to write what is left; the first failure is told, and so is the end of it."""
        if not self.unwritten:
            return
        failed_before = self.error is not None
        try:
            with open(self.path, "ab", buffering=0) as file:
                while self.unwritten:  # on a disk that is almost full, a write takes a part
                    del self.unwritten[: file.write(self.unwritten)]
                self._size = os.fstat(file.fileno()).st_size
        except OSError as e:
            self.error = e
            if not failed_before:
                log.error(f"{self.path}: {os.strerror(e.errno or 0)}; what belongs there is kept and tried again")
        else:
            self.error = None
            if failed_before:
                log.info(f"{self.path}: written again, without a gap")

    @property
    def size(self) -> int:
        """Bytes in the file; while it cannot be seen, those that were last seen."""
        with contextlib.suppress(OSError):
            if self.path.is_file():
                self._size = self.path.stat().st_size
        return self._size
