"""Two sets of runs, compared pair by pair: runs of the same seed, or of the same fold."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from logger.console import digits
from logger.report.runs import Run
from logger.report.settings import Metric, as_text
from utils.errors import UsageError


@dataclass
class Comparison:
    """B - A over the pairs. t-test: two-sided, of the mean of the differences."""

    metric: Metric
    pairs: dict[Any, tuple[float, float]]  # by seed or fold: the best value of A and of B

    @property
    def differences(self) -> list[float]:
        return [b - a for a, b in self.pairs.values()]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.differences)

    @property
    def sd(self) -> float:
        return statistics.stdev(self.differences)

    @property
    def interval(self) -> tuple[float, float]:
        """95% confidence interval of the mean."""
        half = _t_quantile(len(self.pairs) - 1) * self.sd / math.sqrt(len(self.pairs))
        return self.mean - half, self.mean + half

    @property
    def p(self) -> float:
        if self.sd == 0:
            return 1.0 if self.mean == 0 else 0.0
        return 2 * _t_tail(abs(self.mean) / (self.sd / math.sqrt(len(self.pairs))), len(self.pairs) - 1)

    def __str__(self) -> str:
        better = sum(d > 0 if self.metric.mode == "max" else d < 0 for d in self.differences)
        mean, low, high = (_signed(value) for value in (self.mean, *self.interval))
        return (
            f"B - A of {self.metric.name} over {len(self.pairs)} pairs: {mean}"
            f" ± {digits(self.sd)} (sd), 95% interval {low} to {high}, p = {self.p:.2g} (paired t-test); "
            f"B is better in {better} of {len(self.pairs)}"
        )

    def as_json(self) -> dict[str, Any]:
        return {
            "metric": f"{self.metric.mode} {self.metric.name}",
            "pairs": {str(key): list(pair) for key, pair in self.pairs.items()},
            "mean": self.mean,
            "sd": self.sd,
            "interval": list(self.interval),
            "p": self.p,
        }


def compare(a: Sequence[Run], b: Sequence[Run], key: str, metric: Metric | None) -> Comparison:
    """Pair the runs of A and B that have the same value of `key`: seed, fold, or any key of the config."""
    metric = metric or Metric(*a[0].monitor())
    of_a, of_b = (_by_key(runs, key, which, metric) for runs, which in ((a, "A"), (b, "B")))
    both = [value for value in of_a if value in of_b]
    if len(both) < 2:
        raise UsageError(
            f"--paired {key}: {len(both)} pairs; A has runs for {', '.join(of_a) or 'none'}, B for "
            f"{', '.join(of_b) or 'none'}; at least 2 must be in both"
        )
    return Comparison(metric, {value: (of_a[value], of_b[value]) for value in both})


def _by_key(runs: Sequence[Run], key: str, which: str, metric: Metric) -> dict[str, float]:
    values: dict[str, float] = {}
    for run in runs:
        names = [name for name in run.config if f".{name}".endswith(f".{key}")]
        if len(names) != 1:
            known = f"{' and '.join(names)} are both in" if names else "no such key in"
            raise UsageError(f"--paired {key}: {known} the config of {run.folder}; give the full name of a key")
        best, value = run.best(metric.mode, metric.name), as_text(run.config[names[0]])
        if best is None:
            raise UsageError(
                f"--paired {key}: {run.folder} has no {metric.name}; it has "
                f"{', '.join(run.names()) or 'no values yet'}; choose with --metric"
            )
        if value in values:
            raise UsageError(
                f"--paired {key}: two runs of {which} have {names[0]}={value}; give folders that hold one run "
                f"for each, of one setting"
            )
        values[value] = best[0]
    return values


def _signed(value: float) -> str:
    return f"+{digits(value)}" if value >= 0 else digits(value)


def _t_tail(t: float, degrees: int, steps: int = 2000) -> float:
    """P(T > t) of Student's t distribution, by Simpson's rule over its angle: t = sqrt(degrees) * tan(angle)."""
    start = math.atan(t / math.sqrt(degrees))
    width = (math.pi / 2 - start) / steps
    values = [max(math.cos(start + i * width), 0.0) ** (degrees - 1) for i in range(steps + 1)]
    area = width / 3 * (values[0] + values[-1] + 4 * sum(values[1:-1:2]) + 2 * sum(values[2:-1:2]))
    return math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(math.pi) * area


def _t_quantile(degrees: int, tail: float = 0.025) -> float:
    low, high = 0.0, 1e4
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_tail(middle, degrees) > tail else (low, middle)
    return low
