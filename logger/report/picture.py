"""The charts as a PNG, through matplotlib (the extra `plots`)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from logger.report.page import LIGHT, OTHERS, chart_names, drawn
from logger.report.settings import Setting
from logger.report.svg import limits, thinned
from logger.report.table import counted, number, what_differs
from utils.errors import UsageError

COLUMNS = 2
MOST = 12  # charts of all names together
IN_LEGEND = 7  # settings


def draw(found: Sequence[Setting], path: Path) -> None:
    """Write the curves: of each name the monitored value and the loss, of a single name all.

    UsageError: no matplotlib.
    """
    try:
        from matplotlib.figure import Figure  # without pyplot: needs no display and keeps no state
    except ImportError:
        raise UsageError(
            f"--out {path}: a PNG needs matplotlib, which is not installed: make extra NAME=plots; "
            f"an .html needs nothing"
        ) from None
    names = list(dict.fromkeys(setting.name for setting in found))
    charts = []
    for name in names:
        of_name = [setting for setting in found if setting.name == name]
        charts += [(of_name, value) for value in chart_names(of_name)[: COLUMNS if len(names) > 1 else MOST]]
    charts = charts[:MOST]
    rows = -(-len(charts) // COLUMNS)
    figure = Figure(figsize=(6.5 * COLUMNS, 3.6 * rows + 0.4), layout="constrained")
    for place, (of_name, value) in enumerate(charts, start=1):
        _chart(figure.add_subplot(rows, COLUMNS, place), of_name, value)
    figure.suptitle("validation full, training dotted", fontsize="medium")
    figure.savefig(path, dpi=110)


def _chart(axes: Any, found: Sequence[Setting], name: str) -> None:
    colors, shown = [*LIGHT, "#8a8a8a"], list[float]()
    for i, run in reversed(drawn(found)):  # the best setting on top
        for curve, style in ((run.curve(name, per_epoch=False), ":"), (run.curve(f"val_{name}"), "-")):
            if curve:
                steps, values = zip(*thinned(curve), strict=True)
                marker = "" if len(steps) > 1 else "."
                axes.plot(steps, values, style, color=colors[min(i, OTHERS)], linewidth=1.5, marker=marker)
                shown += values
    axes.set(title=f"{found[0].name}: {name}", xlabel="step")
    if shown:
        low, high, _ = limits(shown)
        margin = (high - low) * 0.04
        axes.set(ylim=(low - margin, high + margin))
    axes.grid(alpha=0.3)
    if name == found[0].metric.name.removeprefix("val_"):
        differs = what_differs(found)
        for i, setting in enumerate(found[:IN_LEGEND]):
            label = f"{differs[id(setting)]}  {number(setting.best)}, {counted(len(setting.runs), 'run')}".strip()
            axes.plot([], [], color=colors[i], label=label)
        axes.legend(fontsize="small")
