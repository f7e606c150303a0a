"""Sweeps of tiny runs in forked processes: digits, an MLP, steps that take less than a millisecond."""

import json
from pathlib import Path
from typing import Any

import sweep
from tests.trainer.checkpoint.harness import Child, House, Patch, Result, config
from utils.sweep import report
from utils.sweep.folder import Sweep, Trial

SPACE = """
space:
  optimizer.args.lr: {float: [1e-3, 0.1], log: true}
  arch.args.hidden: {choice: [[8], [16]]}
sampler: SAMPLER
"""
GRID = """
space:
  optimizer.args.lr: {choice: [0.01, 0.03]}
  arch.args.hidden: {choice: [[8], [16], [32]]}
sampler: grid
"""


def tiny(**changes: Any) -> dict[str, Any]:
    few: dict[str, Any] = {"trainer__save_steps": None, "trainer__verbosity": 0, "data_loader__args__transforms": None}
    return config(arch={"type": "MLP", "args": {"in_features": 64, "hidden": [8]}}, **few | changes)


class Sweeps(House):
    """A folder with c.yaml, and sweeps in saved/t/."""

    def start_sweep(self, *args: Any, patch: Patch | None = None) -> Child:
        def prepare() -> None:
            report.plots = lambda *_: []  # a second; test_plots.py has them
            if patch:
                patch()

        return Child([str(arg) for arg in args], self.folder, prepare, main=sweep.main)

    def sweep(self, *args: Any, code: int = 0, patch: Patch | None = None) -> Result:
        result = self.start_sweep(*args, patch=patch).wait()
        assert result.code == code, f"exit {result.code}, not {code}\n{result.text}"
        return result

    def new(self, *args: Any, code: int = 0) -> Result:
        """The sweep s of c.yaml."""
        return self.sweep("-c", "c.yaml", "--sweep-id", "s", *args, code=code)

    @property
    def path(self) -> Path:
        return self.folder / "saved/t/s"

    def trials(self) -> list[Trial]:
        return Sweep.open(self.path).trials()

    def study(self) -> Any:
        """What Optuna has of it."""
        import optuna
        from optuna.storages.journal import JournalFileBackend

        backend = JournalFileBackend(str(self.path / "journal.log"))
        return optuna.load_study(study_name="t/s", storage=optuna.storages.JournalStorage(backend))

    def rows(self) -> list[list[str]]:
        """The table without the times."""
        lines = (self.path / "table.csv").read_text().splitlines()
        return [[*line.split(",")[:-2], line.split(",")[-1]] for line in lines]

    def run_of(self, number: int) -> House:
        """The run of a trial, to be compared bit for bit."""
        house = House.__new__(House)
        house.folder, house.run = self.folder, self.path / f"{number:03}"
        return house

    def steps_of(self, number: int) -> list[int]:
        lines = (self.path / f"{number:03}/metrics.jsonl").read_text().splitlines()
        return [point["step"] for point in map(json.loads, lines) if point["split"] == "valid"]
