"""The report as one HTML file: tables and charts, light or dark as the browser is, no network and no script."""

import time
from collections.abc import Mapping, Sequence
from html import escape
from itertools import islice
from pathlib import Path

from logger.report import outputs, table
from logger.report.paired import Comparison
from logger.report.runs import Run
from logger.report.settings import Setting
from logger.report.svg import Line, chart

# Okabe and Ito's colors, which color-blind people can distinguish; one step lighter where the page is dark
LIGHT = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D00")
DARK = ("#4DA6E0", "#F0803C", "#2FC79A", "#E39CC5", "#F5B83D", "#8FD0F5", "#CDB04A")
OTHERS = len(LIGHT)  # the number of the color of all further settings
TESTS_SHOWN = 4  # runs of one name whose confusion matrix is shown
RUNS_DRAWN = 60  # per name, the best settings first: more curves could not be distinguished

STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --soft: #5c5c5c; --line: #d9d9d9; --back: #fff; --row: #f5f6f8 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --soft: #a0a0a0; --line: #3a3d42; --back: #16181c; --row: #1f2227 }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back); margin: 2rem auto;
  max-width: 1480px; padding: 0 1.5rem }
h1 { font-size: 1.5rem; margin: 0 } h2 { font-size: 1.2rem; margin: 2.2rem 0 .5rem }
p { color: var(--soft); margin: .2rem 0 }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap }
th, td { text-align: left; padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line) }
th { color: var(--soft); font-weight: 600 } tbody tr:hover { background: var(--row) }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(400px, 1fr)); gap: 1.2rem; margin-top: .8rem }
svg { width: 100%; height: auto } svg text { fill: var(--soft); font-size: 11px }
svg .title { fill: var(--ink); font-size: 14px }
.grid { stroke: var(--line); fill: none }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round }
.line:hover { stroke-width: 4 } .train { stroke-dasharray: 4 4; stroke-width: 1.2; opacity: .75 }
.two { display: flex; flex-wrap: wrap; gap: 2rem; align-items: flex-start } .matrix { max-width: 460px }
.ink { fill: var(--ink) !important } .right { fill: #0072B2 } .wrong { fill: #D55E00 }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem }
.key { display: inline-block; width: .8rem; height: .8rem; border-radius: .2rem; margin-right: .45rem }
details { margin-top: .8rem } summary { cursor: pointer; color: var(--soft) }
"""


def html(found: Sequence[Setting], broken: Mapping[Path, str], comparison: Comparison | None) -> str:
    """The whole page."""
    names = list(dict.fromkeys(setting.name for setting in found))
    count = table.counted(sum(len(setting.runs) for setting in found), "run")
    title = names[0] if len(names) == 1 else f"{len(names)} names"
    parts = [f"<h1>{escape(title)}</h1>"]
    parts.append(f"<p>{count} of {table.counted(len(found), 'setting')}, {time.strftime('%Y-%m-%d %H:%M')}</p>")
    if comparison:
        parts.append(f"<h2>A against B</h2><p>{escape(str(comparison))}</p>")
    if len(names) > 1:
        parts += ["<h2>All</h2>", _table(*table.rows(found))]
    for name in names:
        of_name = [setting for setting in found if setting.name == name]
        if len(names) > 1:
            parts.append(f"<h2>{escape(name)}</h2>")
        parts += _section(of_name)
    if unread := {**broken, **table.notes(found)}:
        parts.append("<h2>Could not be read</h2>")
        parts += [f"<p>{escape(str(folder))}: {escape(why)}</p>" for folder, why in unread.items()]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    return (
        f"<!doctype html>\n<html lang=en>{head}<style>{STYLE}{_palette()}</style>\n" + "\n".join(parts) + "\n</html>\n"
    )


def _section(found: Sequence[Setting]) -> list[str]:
    """Table, charts and single runs of one name."""
    head, lines = table.rows(found)
    metric = found[0].metric
    order = "largest" if metric.mode == "max" else "smallest"
    parts = [f"<p>the {order} {escape(metric.name)} first; mean ± standard deviation over runs; "]
    parts.append("in the charts, validation is a full line and training a dashed one</p>")
    parts.append(_table(head, lines, keys=[min(i, OTHERS) for i in range(len(lines))]))
    parts.append(f'<div class="charts">{"".join(charts(found))}</div>')
    of_tests = filter(None, (outputs.section(run) for setting in found for run in setting.runs))
    parts += islice(of_tests, TESTS_SHOWN)
    runs_head, runs_lines = table.run_rows(found)
    keys = [min(i, OTHERS) for i, setting in enumerate(found) for _ in setting.runs]
    count = table.counted(len(runs_lines), "run")
    parts.append(f"<details><summary>{count}</summary>{_table(runs_head, runs_lines, keys)}</details>")
    return parts


def charts(found: Sequence[Setting]) -> list[str]:
    """A chart for each value: training and validation of one name in one chart, settings in color."""
    result = []
    for name in chart_names(found):
        lines = []
        for i, run in drawn(found):
            lines.append(Line(run.curve(f"val_{name}"), min(i, OTHERS), f"{run.folder}, validation"))
            lines.append(Line(run.curve(name, per_epoch=False), min(i, OTHERS), f"{run.folder}, training", dashed=True))
        result.append(chart(name, lines))
    return result


def chart_names(found: Sequence[Setting]) -> list[str]:
    """The values to draw, without val_: the monitored one first, then the loss; learning rates last."""
    names = dict.fromkeys(name.removeprefix("val_") for _, run in drawn(found) for name in run.names())
    monitored = found[0].metric.name.removeprefix("val_")
    shown = [name for name in names if not name.startswith("test_")]
    return sorted(shown, key=lambda name: (name != monitored, name != "loss", name.startswith("lr")))


def drawn(found: Sequence[Setting]) -> list[tuple[int, Run]]:
    """Runs, with the place of their setting."""
    return [(i, run) for i, setting in enumerate(found) for run in setting.runs][:RUNS_DRAWN]


def _table(head: Sequence[str], lines: Sequence[Sequence[str]], keys: Sequence[int] = ()) -> str:
    rows = []
    for i, line in enumerate(lines):
        cells = [escape(cell) for cell in line]
        if keys:
            cells[0] = f'<span class="key k{keys[i]}"></span>{cells[0]}'
        rows.append("<tr>" + "".join(f"<td>{cell}" for cell in cells))
    top = "".join(f"<th>{escape(name)}" for name in head)
    return f'<div class="wide"><table><thead><tr>{top}</thead><tbody>{"".join(rows)}</tbody></table></div>'


def _palette() -> str:
    def rules(colors: Sequence[str]) -> str:
        return "".join(f".c{i}{{stroke:{c}}}.k{i}{{background:{c}}}" for i, c in enumerate([*colors, "#8a8a8a"]))

    return f"{rules(LIGHT)}@media (prefers-color-scheme: dark) {{{rules(DARK)}}}"
