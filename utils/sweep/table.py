"""The table of a sweep: one row per trial; mean and standard deviation where seeds or folds repeat; the best one."""

import csv
import io
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from utils.sweep.folder import Trial
from utils.sweep.points import overrides_of, text_of


def repeats(key: str) -> bool:
    """Is it a key that repeats a run: the seed, or the fold of a data loader?"""
    return key == "seed" or key.endswith(".fold")


@dataclass
class Group:
    """Trials that differ in seed and fold only."""

    keys: dict[str, Any]
    trials: list[Trial]

    def values(self, name: str) -> list[float]:
        return [t.values[name] for t in self.trials if t.state == "done" and name in t.values]

    def mean(self, name: str) -> float:
        values = self.values(name)
        return statistics.fmean(values) if values else math.nan

    def sd(self, name: str) -> float:
        values = self.values(name)
        finite = all(map(math.isfinite, values))
        return statistics.stdev(values) if len(values) > 1 and finite else math.nan


class Table:
    """objectives: min NAME or max NAME; the first decides which is best."""

    def __init__(self, trials: Sequence[Trial], objectives: Sequence[str]) -> None:
        self.trials, self.objectives = list(trials), list(objectives)
        self.keys = list(dict.fromkeys(key for trial in trials for key in trial.keys))
        found = dict.fromkeys(name for trial in trials for name in trial.values)
        self.names = list(dict.fromkeys([*(o.split()[1] for o in objectives), *found]))
        groups: dict[str, Group] = {}
        for trial in trials:
            keys = {key: value for key, value in trial.keys.items() if not repeats(key)}
            groups.setdefault(json.dumps(keys), Group(keys, [])).trials.append(trial)
        self.groups = list(groups.values())

    @property
    def repeated(self) -> list[str]:
        return [key for key in self.keys if repeats(key)]

    def _cost(self, group: Group, objective: str) -> float:
        """Lower is better."""
        mode, name = objective.split()
        mean = group.mean(name)
        return math.inf if math.isnan(mean) else mean if mode == "min" else -mean

    def best(self) -> Group | None:
        """The group with the best mean of the first objective; None if no trial is done."""
        done = [group for group in self.groups if self._cost(group, self.objectives[0]) < math.inf]
        return min(done, key=lambda group: self._cost(group, self.objectives[0]), default=None)

    def front(self) -> list[Group]:
        """Those that no other group beats in all objectives."""
        costs = [(group, [self._cost(group, o) for o in self.objectives]) for group in self.groups]
        return [
            group
            for group, mine in costs
            if max(mine) < math.inf
            and not any(other != mine and all(a <= b for a, b in zip(other, mine, strict=True)) for _, other in costs)
        ]

    # -- forms --------------------------------------------------------------------------------------------------------

    def to_csv(self) -> str:
        out = io.StringIO(newline="")
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["trial", *self.keys, *self.names, "step", "seconds", "state"])
        for trial in self.trials:
            keys = [text_of(trial.keys[key]) if key in trial.keys else "" for key in self.keys]
            values = [f"{trial.values[name]:.8g}" if name in trial.values else "" for name in self.names]
            writer.writerow([trial.number, *keys, *values, trial.step, f"{trial.seconds:.1f}", trial.state])
        return out.getvalue()

    def to_dict(self) -> dict[str, Any]:
        best = self.best()
        return {
            "objectives": self.objectives,
            "trials": [
                {"trial": t.number, "keys": t.keys, "values": plain(t.values), "step": t.step,
                 "seconds": round(t.seconds, 1), "state": t.state, "error": t.error}
                for t in self.trials
            ],
            "groups": [self._summary(group) for group in self.groups] if self.repeated else [],
            "best": None if best is None else self._summary(best),
        }  # fmt: skip

    def _summary(self, group: Group) -> dict[str, Any]:
        return {
            "keys": group.keys,
            "trials": [trial.number for trial in group.trials],
            "mean": plain({name: group.mean(name) for name in self.names}),
            "sd": plain({name: group.sd(name) for name in self.names}),
        }

    def to_text(self) -> str:
        several = self.objectives[1:] != []
        front = {trial.number for group in self.front() for trial in group.trials} if several else set()
        rows = [["trial", *self.keys, *self.names, "step", "time", ""]]
        for t in self.trials:
            keys = [text_of(t.keys[key]) if key in t.keys else "-" for key in self.keys]
            values = [_number(t.values.get(name, math.nan)) for name in self.names]
            note = {"done": "best in some objective" if t.number in front else ""}.get(t.state, t.state)
            rows.append([str(t.number), *keys, *values, str(t.step), f"{t.seconds:.1f} s", note])
        text = _aligned(rows)
        if self.repeated:
            plain = [key for key in self.keys if not repeats(key)]
            rows = [[*plain, *self.names, "runs"]]
            for group in self.groups:
                cells = [self._mean_and_sd(group, name) for name in self.names]
                keys = [text_of(group.keys[key]) if key in group.keys else "-" for key in plain]
                rows.append([*keys, *cells, str(len(group.values(self.names[0])))])
            text += f"\nmean ± standard deviation over {' and '.join(self.repeated)}\n{_aligned(rows)}"
        return text

    def _mean_and_sd(self, group: Group, name: str) -> str:
        sd = group.sd(name)
        return _number(group.mean(name)) + ("" if math.isnan(sd) else f" ± {sd:.2g}")

    def headline(self) -> str:
        best = self.best()
        if best is None:
            return "no trial is done"
        name = self.objectives[0].split()[1]
        which = f"trial{'s' if best.trials[1:] else ''} {', '.join(str(trial.number) for trial in best.trials)}"
        keys = f" ({', '.join(overrides_of(best.keys))})" if best.keys else ""
        return f"best {name} {self._mean_and_sd(best, name)}: {which}{keys}"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.6g}"


def plain(values: dict[str, float]) -> dict[str, float | None]:
    """JSON has no NaN."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines) + "\n"
