"""The result of a run."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.engine.base_trainer import BaseTrainer

RESULT_FILE = "GROUNDWORK_RESULT"  # environment variable: the file in which rank 0 leaves its result


@dataclass
class Result:
    """values: of the last epoch or validation, such as loss and val_accuracy. best: the best value of
    `trainer.monitor`, reached at step `best_step`; None without a monitor. why: why the run ended."""

    folder: Path | None
    step: int
    values: dict[str, float] = field(default_factory=dict)
    best: float | None = None
    best_step: int = 0
    why: str = ""
    exit_code: int = 0

    @classmethod
    def of(cls, trainer: "BaseTrainer", interrupted: int | None = None) -> "Result":
        """interrupted: the exit code, where a signal ended the run."""
        result = cls(
            folder=trainer.run.folder if trainer.run else None,
            step=trainer.step,
            values=trainer.values,
            best=trainer.monitor.best,
            best_step=trainer.monitor.best_step,
            why=f"interrupted after step {trainer.step}; saved" if interrupted else trainer.why_finished,
            exit_code=interrupted or 0,
        )
        if trainer.rank == 0 and (path := os.environ.get(RESULT_FILE)):
            Path(path).write_text(json.dumps(asdict(result) | {"folder": str(result.folder)}), encoding="utf-8")
        return result

    @classmethod
    def read(cls, path: Path, exit_code: int) -> "Result":
        """What rank 0 of several processes wrote; where it failed before, only its exit code."""
        if not path.exists():
            return cls(None, 0, why="a process failed; its error is printed above", exit_code=exit_code)
        saved: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return cls(**saved | {"folder": Path(saved["folder"]), "exit_code": exit_code})
