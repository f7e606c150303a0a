"""The value that `trainer.monitor` watches: the best so far, and when to stop early."""

import math
import re
from collections.abc import Mapping
from typing import Any


class Monitor:
    """What `trainer.monitor` watches: `min val_loss` keeps the lowest, `off` nothing.

    keep_best: how many of the best are kept in `top`, [[value, step], ...], the best first.
    """

    def __init__(self, monitor: str, early_stop: int | None, keep_best: int = 1) -> None:
        self.mode, self.name = (*monitor.split(), "")[:2]
        self.early_stop, self.keep_best = early_stop, keep_best
        self.top: list[list[float]] = []
        self.best: float | None = None
        self.best_step = 0
        self.bad_count = 0  # validations since the best

    @property
    def key(self) -> str:
        """What is watched, under its name in an epoch's values: valid/loss is val_loss, train/loss is loss."""
        return re.sub("^valid/", "val_", self.name.removeprefix("train/"))

    def update(self, value: float, step: int) -> bool:
        """Record a value and return whether it is the best so far; NaN never is."""
        better = not math.isnan(value) and (
            self.best is None or (value < self.best if self.mode == "min" else value > self.best)
        )
        if better:
            self.best, self.best_step, self.bad_count = value, step, 0
        else:
            self.bad_count += 1
        if not math.isnan(value):
            self.top.append([value, step])
            self.top.sort(key=lambda entry: entry[0], reverse=self.mode == "max")  # the first of equal values stays
            del self.top[self.keep_best :]
        return better

    @property
    def top_steps(self) -> list[int]:
        return [int(step) for _, step in self.top]

    @property
    def stop(self) -> bool:
        return self.early_stop is not None and self.bad_count >= self.early_stop

    def state_dict(self) -> dict[str, Any]:
        top = {"top": self.top} if self.keep_best > 1 else {}
        return {"best": self.best, "best_step": self.best_step, "bad_count": self.bad_count, **top}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best, self.best_step, self.bad_count = state["best"], state["best_step"], state["bad_count"]
        self.top = [list(entry) for entry in state.get("top", ())][: self.keep_best]
