"""metrics.csv: a row per value, for spreadsheets and data frames. However often a run is killed, each is there once."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from logger.append_only_file import AppendOnlyFile
from logger.writer import RunInfo, Writer

FILE_NAME = "metrics.csv"
HEADER = b"step,epoch,split,name,value\n"  # a row per value: no new metric changes the columns


class CSV(Writer):
    """In pandas: read_csv(FILE).pivot_table("value", ["split", "step"], "name"). Empty: NaN."""

    can_cut = True

    def __init__(self) -> None:
        self._unwritten = b""  # what a full disk has not taken before

    def open(self, run: RunInfo) -> None:
        self.file = AppendOnlyFile(run.folder / FILE_NAME)
        self.file.write(self._unwritten if self.file.size or self._unwritten else HEADER)

    def scalars(self, step: int, epoch: int, split: str, values: Mapping[str, float]) -> None:
        rows = io.StringIO()
        for name, value in values.items():
            shown = "" if value != value else repr(float(value))
            csv.writer(rows, lineterminator="\n").writerow([step, epoch, split, name, shown])
        self.file.write(rows.getvalue().encode())

    def files(self) -> list[AppendOnlyFile]:
        return [self.file]

    def cut(self, folder: Path, sizes: Mapping[str, int], unwritten: Mapping[str, bytes]) -> None:
        """Results of test.py stay: no run repeats them."""
        AppendOnlyFile(folder / FILE_NAME).cut(sizes.get(FILE_NAME, 0), keep=lambda row: b",test," in row)
        self._unwritten = unwritten.get(FILE_NAME, b"")
