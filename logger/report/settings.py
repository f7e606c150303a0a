"""Runs that differ in nothing but their seed or fold are one setting: mean ± sd over them, and a table of all."""

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from logger.report.runs import Run

REPEATS = ("seed", "data_loader.args.fold")  # keys whose values only repeat a setting
NO_MATTER = (
    "trainer.save_dir", "trainer.verbosity", "trainer.tensorboard", "trainer.keep_last", "trainer.keep_best", "logger",
    "n_gpu",
)  # fmt: skip
LOWER_IS_BETTER = ("loss", "error", "perplexity", "mae", "mse", "rmse", "nll")
MISSING = "–"  # for a key that a run does not have


@dataclass
class Metric:
    """What runs are compared by."""

    mode: str  # "max" or "min"
    name: str

    @classmethod
    def of(cls, text: str) -> "Metric":
        """`max val_accuracy`, or just a name: the largest is the best unless it says loss, error or the like."""
        mode, _, name = text.partition(" ")
        if mode in ("max", "min") and name:
            return cls(mode, name.strip())
        return cls("min" if any(word in text.lower().split("_") for word in LOWER_IS_BETTER) else "max", text)


@dataclass
class Summary:
    """Mean and sample standard deviation over runs."""

    values: list[float]

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.values) if self.values else None

    @property
    def sd(self) -> float | None:
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @classmethod
    def of(cls, values: Iterable[float | None]) -> "Summary":
        return cls([value for value in values if value is not None])


class Setting:
    """Runs of one config, repeated over seeds or folds."""

    def __init__(self, runs: Sequence[Run], metric: Metric | None) -> None:
        """metric: None takes what the runs themselves monitor."""
        self.runs = list(runs)
        self.name, self.config = runs[0].name, runs[0].config
        self.metric = metric or Metric(*runs[0].monitor())
        found = [run.best(self.metric.mode, self.metric.name) for run in runs]
        self.best = Summary.of(pair[0] if pair else None for pair in found)
        self.when = Summary.of(float(pair[1]) if pair else None for pair in found)
        self.last = Summary.of(run.last(self.metric.name) for run in runs)
        self.test = Summary.of(run.last(f"test_{self.metric.name.removeprefix('val_')}") for run in runs)
        self.seconds = Summary.of(run.seconds for run in runs)
        self.speed = Summary.of(run.speed for run in runs)

    @property
    def order(self) -> tuple[bool, float]:
        """The best first; without a value last."""
        mean = self.best.mean
        return mean is None, 0.0 if mean is None else (-mean if self.metric.mode == "max" else mean)


def settings(runs: Sequence[Run], metric: Metric | None) -> list[Setting]:
    """By name, the best of each first."""
    together: dict[str, list[Run]] = {}
    for run in runs:
        same = {key: value for key, value in run.config.items() if key not in (*REPEATS, *NO_MATTER)}
        together.setdefault(json.dumps([run.name, same], sort_keys=True, default=str), []).append(run)
    found = [Setting(group, metric) for group in together.values()]
    return sorted(found, key=lambda setting: (setting.name, setting.order))


def changed_keys(configs: Sequence[dict[str, Any]]) -> list[str]:
    """The keys in which these configs differ, apart from those that only repeat a setting or do not matter."""
    keys = dict.fromkeys(key for config in configs for key in config)
    first = configs[0] if configs else {}
    return [
        key
        for key in keys
        if key not in (*REPEATS, *NO_MATTER, "name")
        and any(config.get(key, MISSING) != first.get(key, MISSING) for config in configs)
    ]


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """`optimizer.args.lr` as `lr`, as far as it stays unique."""
    short = {}
    for key in keys:
        parts = key.split(".")
        ends = [".".join(parts[-n:]) for n in range(1, len(parts) + 1)]
        short[key] = next(end for end in ends if sum(f".{k}".endswith(f".{end}") for k in keys) == 1)
    return short


def as_text(value: Any) -> str:
    """A value of a config; a part as NAME or NAME(argument=value)."""
    if value is None:
        return "off"
    if isinstance(value, dict) and set(value) in ({"type"}, {"type", "args"}):
        args = value.get("args") or {}
        if not isinstance(args, dict):
            return json.dumps(value, default=str)
        given = ", ".join(f"{name}={as_text(argument)}" for name, argument in args.items())
        return f"{value['type']}({given})" if given else str(value["type"])
    if isinstance(value, list) and any(isinstance(entry, dict) for entry in value):
        return ", ".join(map(as_text, value))
    return json.dumps(value, default=str) if isinstance(value, (list, dict)) else str(value)
