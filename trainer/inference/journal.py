"""The rows that are predicted so far, so that a job that was killed continues: one line of JSON for each batch."""

import csv
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from logger.console import log
from utils.errors import Stopped

PART = ".part"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Within this, a file that cannot be written ends the command with Stopped. path: of an error that names none."""
    try:
        yield
    except OSError as e:
        raise Stopped(
            f"{e.filename or path} cannot be written: {e.strerror or e}; free space or give another --out, and run the "
            f"same command again"
        ) from e


class Journal:
    """OUT.part, and the table OUT in the end. One process writes it.

    job: what the rows depend on; a journal of another job is started again. for_excel: the table starts with a mark by
    which Excel knows UTF-8.
    """

    def __init__(self, out: Path, header: Sequence[str], job: Any, for_excel: bool = False) -> None:
        self.encoding = "utf-8-sig" if for_excel else "utf-8"
        self.out, self.header, self.path = out, list(header), out.with_name(out.name + PART)
        self.first = json.dumps({"header": self.header, "job": job})
        self.done = self._resume()

    def add(self, rows: Sequence[Sequence[str]], bad: Sequence[tuple[str, str]]) -> None:
        """The next batch. bad: the names of samples that could not be read, and why."""
        self._write(json.dumps({"rows": rows, "bad": bad}))
        self.done += 1

    def finish(self) -> tuple[int, list[tuple[str, str]]]:
        """Write the table; returns the number of its rows, and what could not be read."""
        temporary, count, bad = self.out.with_name(f".tmp-{self.out.name}"), 0, list[tuple[str, str]]()
        with writing(self.out):
            with open(temporary, "w", newline="", encoding=self.encoding) as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(self.header)
                for entry in self._entries():
                    writer.writerows(entry["rows"])
                    count += len(entry["rows"])
                    bad += [(name, why) for name, why in entry["bad"]]
            os.replace(temporary, self.out)
            self.path.unlink()
        return count, bad

    def _resume(self) -> int:
        """The number of batches that are there already; cuts off what a killed process left unfinished."""
        if self.path.is_file():
            with open(self.path, "rb") as file:
                lines = file.readlines()
            if lines and lines[-1][-1:] != b"\n":
                lines.pop()
            if lines and lines[0].decode(errors="replace").rstrip("\n") == self.first:
                with open(self.path, "r+b") as file:
                    file.truncate(sum(map(len, lines)))
                if len(lines) > 1:
                    log.info(f"continuing after {len(lines) - 1:,} batches that {self.path} has already")
                return len(lines) - 1
            log.info(f"{self.path} is of another job: starting again")
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_bytes(b"")
        self._write(self.first)
        return 0

    def _entries(self) -> Iterator[dict[str, Any]]:
        with open(self.path, encoding="utf-8") as file:
            next(file)
            for line in file:
                yield json.loads(line)

    def _write(self, line: str) -> None:
        with writing(self.path), open(self.path, "ab") as file:
            file.write(f"{line}\n".encode())
