"""Plots of a sweep (extra `plots`): history, importance of the keys, slices, parallel coordinates, and a page of all.

Color-blind people can tell Okabe and Ito's colors and the map cividis; states differ in shape too. A deletable file.
"""

import base64
import io
import itertools
import math
import statistics
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from utils import fonts
from utils.files import write_atomic
from utils.sweep.folder import Trial
from utils.sweep.points import text_of
from utils.sweep.table import Table, repeats

BLUE, ORANGE, BLACK = "#0072B2", "#D55E00", "#1a1a1a"
COLORS = (BLUE, ORANGE, "#009E73", "#CC79A7")  # of objectives
COLORMAP = "cividis"
STYLES = {"done": {"marker": "o", "s": 30}, "pruned": {"marker": "^", "s": 30, "alpha": 0.5}}  # by state
COLUMNS = 3  # slices in a row
FEWEST = 8  # trials that are done, for the importance of a key: fewer explain everything
BINS = 4  # of a key with numbers, of three trials or more each
FAR = 5.0  # a value this many times beyond the middle 90% of all is cut off
SPREAD = 50  # a positive key whose values span this factor has a logarithmic axis
NAMES_SHOWN = 12  # values of a choice with a label on an axis
DPI = 110
FONT = 10  # points
LENGTH = 18  # characters of a label
NOT_SET = -0.12  # in parallel coordinates, the height of a key that a trial lacks
PAGE = """<!doctype html>
<html lang=en><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<style>body {{ font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 1100px;
margin: 2rem auto; padding: 0 1.5rem }} img {{ max-width: 100% }} pre {{ overflow-x: auto }}</style>
<h1>{title}</h1>
<p>{headline}</p>
{images}
<pre>{table}</pre>
</html>
"""


class Scale:
    """How the values of a key or an objective lie on an axis. names: of a choice; its positions are 0, 1, 2, ..."""

    def __init__(self, values: Sequence[Any]) -> None:
        self.names: list[str] | None = None
        numbers = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
        if len(numbers) < len(values):
            self.names = sorted(dict.fromkeys(map(text_of, values)))
            numbers = list(range(len(self.names)))
        self.low, self.high = min(numbers, default=0.0), max(numbers, default=1.0)
        self.log = self.names is None and self.low > 0 and self.high / self.low >= SPREAD

    def position(self, value: Any) -> float:
        return float(value) if self.names is None else float(self.names.index(text_of(value)))

    def height(self, at: float) -> float:
        """Of a position: 0..1; the middle where all values are the same. NaN: below, where there is no value."""
        if math.isnan(at):
            return NOT_SET
        low, high = self.low, self.high
        at = min(max(at, low), high)
        if self.log:
            low, at, high = math.log(low), math.log(at), math.log(high)
        return (at - low) / (high - low) if high > low else 0.5

    def ticks(self) -> list[tuple[float, str]]:
        """(position, label) of some values."""
        if self.names is not None:
            short = [name if len(name) <= LENGTH else f"{name[: LENGTH - 1]}…" for name in self.names]
            return [(float(i), name) for i, name in enumerate(short)][:: math.ceil(len(short) / NAMES_SHOWN)]
        middle = math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2
        return [(value, f"{value:.4g}") for value in dict.fromkeys([self.low, middle, self.high])]


def write(folder: Path, title: str, table: Table) -> list[str]:
    """Write the plots into the folder, and plots.html; returns the names of the files. Needs matplotlib."""
    from matplotlib.text import Text

    images, written = [], []
    for name, draw in PLOTS.items():
        figure = draw(table)
        if figure is None:
            continue
        (folder / "plots").mkdir(exist_ok=True)
        fonts.use_in(figure, FONT)
        for text in figure.findobj(Text):
            text.set_parse_math(False)  # values and keys may have $
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=DPI)
        written.append(f"plots/{name}.png")
        write_atomic(folder / written[-1], out.getvalue())
        data = base64.b64encode(out.getvalue()).decode()
        images.append(f'<h2>{name}</h2>\n<img alt="{name}" src="data:image/png;base64,{data}">')
    if not written:
        return []
    page = PAGE.format(title=escape(title), headline=escape(table.headline()), images="\n".join(images),
                       table=escape(table.to_text()))  # fmt: skip
    write_atomic(folder / "plots.html", page.encode())
    return [*written, "plots.html"]


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure  # without pyplot: needs no display and keeps no state

    return Figure(figsize=(width, height), layout="constrained")


def _value(trial: Trial, objective: str) -> float:
    """NaN for a trial without a result: waiting, failed, or with a non-finite loss."""
    value = trial.values.get(objective.split()[1], math.nan)
    return value if trial.state in STYLES and math.isfinite(value) else math.nan


def _measured(table: Table, objective: str) -> list[Trial]:
    return [trial for trial in table.trials if not math.isnan(_value(trial, objective))]


def _shown(table: Table) -> list[str]:
    """The objectives that a trial has a value of."""
    return [objective for objective in table.objectives if _measured(table, objective)]


def _keys(table: Table) -> list[str]:
    """The keys that a sweep varies, without seeds and folds, which repeat a run."""
    return [key for key in table.keys if not repeats(key)]


def limits(values: Sequence[float]) -> tuple[float, float]:
    """The range to show: a diverged trial does not flatten the others, as what is far off is cut off at the edge."""
    ordered = sorted(values)
    low, high = ordered[len(ordered) // 20], ordered[-1 - len(ordered) // 20]
    far = (high - low) * FAR
    inside = [value for value in ordered if low - far <= value <= high + far] if far else ordered
    return inside[0], inside[-1]


def _values_axis(axes: Any, values: Sequence[float], objective: str) -> None:
    """The values of an objective, negated if lower is better."""
    name, (low, high) = objective.split()[1], limits(values)
    margin = (high - low) * 0.06 or abs(low) * 0.05 or 0.5
    axes.set_ylim(low - margin, high + margin)
    axes.set_ylabel(name if (low, high) == (min(values), max(values)) else f"{name} (far values cut off)")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(axes: Any) -> None:
    """Place the legend above the axes, where it hides no point."""
    axes.legend(fontsize="small", loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False)


def _colorbar(figure: Any, axes: Any, low: float, high: float, label: str) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    if low < high:
        colors = ScalarMappable(Normalize(low, high), COLORMAP)
        figure.colorbar(colors, ax=axes, label=label, fraction=0.03).locator.set_params(integer=True)


# -- the plots --------------------------------------------------------------------------------------------------------


def history(table: Table) -> Any:
    """The objectives over the trials, and the best so far."""
    shown = _shown(table)
    if not shown:
        return None
    figure = _figure(9, 0.4 + 3.4 * len(shown))
    for row, objective in enumerate(shown, 1):
        axes, trials = figure.add_subplot(len(shown), 1, row), _measured(table, objective)
        for state, style in STYLES.items():
            some = [trial for trial in trials if trial.state == state]
            if some:
                color = BLUE if state == "done" else ORANGE
                axes.scatter([t.number for t in some], [_value(t, objective) for t in some], color=color, label=state,
                             zorder=2, **style)  # fmt: skip
        done = [trial for trial in trials if trial.state == "done"]
        if done:
            better = min if objective.startswith("min ") else max
            best = list(itertools.accumulate([_value(t, objective) for t in done], better))
            axes.step([t.number for t in done], best, where="post", color=BLACK, linewidth=1.2, label="best so far")
        failed = [trial.number for trial in table.trials if trial.state == "failed"]
        if failed:
            bottom = axes.get_xaxis_transform()
            axes.scatter(failed, [0.03] * len(failed), marker="x", color=BLACK, label="failed", transform=bottom)
        _values_axis(axes, [_value(trial, objective) for trial in trials], objective)
        last = max(trial.number for trial in table.trials)
        axes.set(xlabel="trial", xlim=(-0.5, last + 0.5))
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        _legend(axes)
    return figure


def importance(table: Table) -> Any:
    """The share of the differences between trials that each key explains by itself."""
    found = {
        objective: {key: share for key in _keys(table) if (share := explained(table, key, objective)) is not None}
        for objective in table.objectives
    }
    keys = sorted(
        {key for shares in found.values() for key in shares},
        key=lambda key: max(shares.get(key, 0.0) for shares in found.values()),
    )
    if not keys:
        return None
    figure = _figure(9, 1.2 + 0.45 * len(keys) * len(found))
    axes, thick = figure.add_subplot(), 0.8 / len(found)
    for i, (objective, shares) in enumerate(found.items()):
        places = [at + 0.4 - thick * (i + 0.5) for at in range(len(keys))]
        widths = [shares.get(key, 0.0) for key in keys]
        bars = axes.barh(places, widths, thick * 0.9, color=COLORS[i % len(COLORS)], label=objective.split()[1])
        axes.bar_label(bars, [f"{width:.0%}" for width in widths], padding=3, fontsize="small")
    axes.set(yticks=range(len(keys)), yticklabels=keys, xlim=(0, 1.08), ylabel="key")
    axes.set_xlabel("share of the differences in rank that the key explains by itself")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.spines[["top", "right"]].set_visible(False)
    _legend(axes)
    return figure


def explained(table: Table, key: str, objective: str) -> float | None:
    """Share of the variance of the objective's ranks between groups of the key's values, 0 to 1; None where it cannot
    be told. Numbers are cut into groups of equal size. Adjusted for what chance explains (epsilon squared).
    """
    trials = [t for t in _measured(table, objective) if t.state == "done" and key in t.keys]
    scale = Scale([trial.keys[key] for trial in trials])
    if len(trials) < FEWEST or scale.high == scale.low:
        return None
    ranks = _ranks([_value(trial, objective) for trial in trials])
    at = [scale.position(trial.keys[key]) for trial in trials]
    different = sorted(set(at))
    bins = min(BINS, len(trials) // 3)
    if scale.names is None and len(different) > BINS:
        group_of = [int((rank - 1) * bins / len(trials)) for rank in _ranks(at)]
    else:
        group_of = [different.index(position) for position in at]
    groups = [[r for r, g in zip(ranks, group_of, strict=True) if g == group] for group in sorted(set(group_of))]
    total = statistics.pvariance(ranks) * len(ranks)
    within = sum(statistics.pvariance(group) * len(group) for group in groups)
    free = len(ranks) - len(groups)
    if total == 0 or free <= 0:
        return None
    return max(0.0, (total - within - (len(groups) - 1) * within / free) / total)


def _ranks(values: Sequence[float]) -> list[float]:
    """From 1 on; equal values share the mean of theirs."""
    ordered = sorted(values)
    first = {value: ordered.index(value) for value in set(values)}
    return [first[value] + (ordered.count(value) + 1) / 2 for value in values]


def slices(table: Table) -> Any:
    """Each objective over each key."""
    keys, shown = _keys(table), _shown(table)
    if not keys or not shown:
        return None
    columns = min(COLUMNS, len(keys))
    rows = math.ceil(len(keys) / columns)  # of one objective
    last = max(trial.number for trial in table.trials)
    figure = _figure(max(5.0, 3.9 * columns + 0.8), 0.3 + 3.2 * rows * len(shown))
    every = []
    for i, objective in enumerate(shown):
        for k, key in enumerate(keys):
            trials = [trial for trial in _measured(table, objective) if key in trial.keys]
            if trials:
                axes = figure.add_subplot(rows * len(shown), columns, i * rows * columns + k + 1)
                _slice(axes, key, objective, trials, last)
                every.append(axes)
    if not every:
        return None
    _colorbar(figure, every, 0, last, "trial")
    if any(trial.state == "pruned" for trial in table.trials):
        _legend(every[0])
    return figure


def _slice(axes: Any, key: str, objective: str, trials: Sequence[Trial], last: int) -> None:
    scale = Scale([trial.keys[key] for trial in trials])
    for state, style in STYLES.items():
        some = [trial for trial in trials if trial.state == state]
        x, y = [scale.position(t.keys[key]) for t in some], [_value(t, objective) for t in some]
        axes.scatter(x, y, c=[t.number for t in some], cmap=COLORMAP, vmin=0, vmax=max(last, 1),
                     edgecolors=BLACK, linewidths=0.4, label=state, zorder=2, **style)  # fmt: skip
    if scale.log:
        axes.set_xscale("log")
        axes.tick_params(which="minor", labelbottom=False)
    elif scale.names is None:
        axes.locator_params(axis="x", nbins=4)
    else:
        ticks = scale.ticks()
        turned = 30 if max(len(label) for _, label in ticks) * len(ticks) > 30 else 0
        axes.set_xticks([at for at, _ in ticks], [label for _, label in ticks], rotation=turned)
        axes.set_xlim(-0.5, len(scale.names) - 0.5)
    _values_axis(axes, [_value(trial, objective) for trial in trials], objective)
    axes.set_xlabel(key)
    axes.tick_params(labelsize="small")


def parallel(table: Table) -> Any:
    """A line for each trial through all its keys and objectives; the best one on top."""
    first, keys = table.objectives[0], _keys(table)
    trials = [trial for trial in _measured(table, first) if trial.state == "done"]
    if not trials or not keys:
        return None
    from matplotlib import colormaps

    trials.sort(key=lambda t: _value(t, first), reverse=first.startswith("min "))  # the best last
    columns: dict[str, tuple[Scale, list[float]]] = {}  # where the trials lie in each
    for key in keys:
        scale = Scale([trial.keys[key] for trial in trials if key in trial.keys])
        columns[key] = scale, [scale.position(t.keys[key]) if key in t.keys else math.nan for t in trials]
    for objective in _shown(table):
        values = [_value(trial, objective) for trial in trials]
        if finite := [value for value in values if not math.isnan(value)]:
            columns[objective.split()[1]] = Scale(limits(finite)), values
    figure = _figure(max(7.0, 2.1 * len(columns) + 1), 4.6)
    axes = figure.add_subplot()
    ranks = _ranks([_value(trial, first) for trial in trials])
    low, high = min(ranks), max(ranks)
    for i, rank in enumerate(ranks):
        heights = [scale.height(places[i]) for scale, places in columns.values()]
        is_best = i == len(ranks) - 1
        color = ORANGE if is_best else colormaps[COLORMAP]((rank - low) / max(high - low, 1))
        axes.plot(heights, color=color, linewidth=2.5 if is_best else 1.2, marker=".", label="best" if is_best else "")
    for x, (scale, places) in enumerate(columns.values()):
        axes.axvline(x, color="#8a8a8a", linewidth=0.8, zorder=0)
        ticks = [(scale.height(at), label) for at, label in scale.ticks()]
        ticks += [(NOT_SET, "not set")] if any(map(math.isnan, places)) else []
        for height, label in ticks:
            axes.annotate(label, (x, height), (4, 3), textcoords="offset points", fontsize="x-small",
                          bbox={"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.5})  # fmt: skip
    axes.set(xlim=(-0.2, len(columns) - 0.5), ylim=(NOT_SET - 0.04, 1.08), yticks=[])
    axes.set_xticks(range(len(columns)), columns, rotation=20 if len(columns) > 4 else 0, fontsize="small")
    axes.spines[:].set_visible(False)
    _legend(axes)
    _colorbar(figure, axes, low, high, f"rank of {first.split()[1]} (1 is the lowest)")
    return figure


PLOTS = {"history": history, "importance": importance, "slices": slices, "parallel": parallel}
