"""The table of settings or runs: as text for a terminal, as rows for the page and for --json."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from logger.console import digits
from logger.estimate import clock_text
from logger.report.runs import Run
from logger.report.settings import MISSING, Setting, Summary, as_text, changed_keys, short_names

LONGEST = 60  # characters of a value of a config: the results must stay in sight; --json has all of it


def rows(found: Sequence[Setting]) -> tuple[list[str], list[list[str]]]:
    """The head and the rows of a table of settings: what differs, then mean ± sd of the results."""
    several = len({setting.name for setting in found}) > 1
    keys = [] if several else changed_keys([setting.config for setting in found])  # each is a column
    metrics = {(setting.metric.mode, setting.metric.name) for setting in found}
    one_metric = found[0].metric.name if len(metrics) == 1 else ""
    head = [*(["name", "what differs"] if several else short_names(keys).values()), "runs"]
    head += [one_metric] if one_metric else ["metric", "best"]
    head += ["at step", "last", "test", "time", "samples/s"]
    differing = what_differs(found) if several else {}
    lines = []
    shown = [fitted([as_text(setting.config.get(key, MISSING)) for setting in found]) for key in keys]
    for setting, values in zip(found, zip(*shown, strict=True) if keys else [()] * len(found), strict=True):
        which = [setting.name, differing[id(setting)]] if several else values
        metric = [] if one_metric else [setting.metric.name]
        lines.append([*which, str(len(setting.runs)), *metric, *_results(setting)])
    return _without_empty(head, lines)


def _results(setting: Setting) -> list[str]:
    """What the columns from `best` to `samples/s` show."""
    values = [number(setting.best), _rounded(setting.when), number(setting.last), number(setting.test)]
    return [*values, duration(setting.seconds.mean), _rounded(setting.speed)]


def run_rows(found: Sequence[Setting]) -> tuple[list[str], list[list[str]]]:
    """The head and the rows of a table of single runs, in the order of their settings."""
    lines = []
    for setting in found:
        for run in setting.runs:
            state = "finished" if run.finished else f"not finished, step {run.step:,}"
            repeat = [as_text(run.config.get("seed")), as_text(run.config.get("data_loader.args.fold", MISSING))]
            lines.append([str(run.folder), *repeat, *_results(Setting([run], setting.metric)), state])
    head = ["run", "seed", "fold", "best", "at step", "last", "test", "time", "samples/s", "state"]
    return _without_empty(head, lines)


def text(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Columns with two spaces between them: words to the left, numbers to the right."""
    columns = []
    for name, *cells in zip(head, *lines, strict=True):
        width = max(map(len, (name, *cells)))
        is_number = all(cell[:1].isdigit() or cell in (MISSING, "") or cell[:1] == "-" for cell in cells)
        columns.append([cell.rjust(width) if is_number else cell.ljust(width) for cell in (name, *cells)])
    return "\n".join("  ".join(row).rstrip() for row in zip(*columns, strict=True))


def fitted(values: Sequence[str]) -> list[str]:
    """The values of a key; long ones without what they begin with in common, and cut."""
    if max(map(len, values), default=0) <= LONGEST:
        return list(values)
    same = 0
    if len(set(values)) > 1:
        while len({value[:same] for value in values}) == 1:
            same += 1
        same = max(0, same - 10)
    values = [f"…{value[same:]}" if same else value for value in values]
    return [value if len(value) <= LONGEST else f"{value[: LONGEST - 1]}…" for value in values]


def number(summary: Summary) -> str:
    """`0.9967 ± 0.0012`"""
    if summary.mean is None:
        return MISSING
    return digits(summary.mean) + (f" ± {digits(summary.sd)}" if summary.sd is not None else "")


def duration(seconds: float | None) -> str:
    if seconds is None or seconds == 0:
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f} s"
    return clock_text(seconds)


def counted(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def notes(found: Sequence[Setting]) -> dict[Path, str]:
    """What could not be read of runs that are shown."""
    return {run.folder: "; ".join(run.notes) for setting in found for run in setting.runs if run.notes}


def as_json(found: Sequence[Setting], broken: dict[Path, str]) -> dict[str, Any]:
    """Everything that the tables show, with full precision."""
    keys = {setting.name: changed_keys([s.config for s in found if s.name == setting.name]) for setting in found}
    return {
        "settings": [
            {
                "name": setting.name,
                "differs": {key: setting.config.get(key) for key in keys[setting.name]},
                "metric": f"{setting.metric.mode} {setting.metric.name}",
                "runs": [str(run.folder) for run in setting.runs],
                "best": {"mean": setting.best.mean, "sd": setting.best.sd, "values": setting.best.values},
                "step": setting.when.values,
                "last": setting.last.mean,
                "test": setting.test.mean,
                "seconds": setting.seconds.mean,
                "samples_per_s": setting.speed.mean,
            }
            for setting in found
        ],
        "runs": [_run_json(run, setting) for setting in found for run in setting.runs],
        "broken": {str(folder): reason for folder, reason in broken.items()},
    }


def _run_json(run: Run, setting: Setting) -> dict[str, Any]:
    best = run.best(setting.metric.mode, setting.metric.name)
    return {
        "folder": str(run.folder),
        "name": run.name,
        "seed": run.config.get("seed"),
        "fold": run.config.get("data_loader.args.fold"),
        "best": best[0] if best else None,
        "best_step": best[1] if best else None,
        "last": {name: run.last(name) for name in run.names()},
        "step": run.step,
        "finished": run.finished,
        "seconds": run.seconds,
        "samples_per_s": run.speed,
        "notes": run.notes,
    }


def what_differs(found: Sequence[Setting]) -> dict[int, str]:
    """`lr=0.1 widths=[32]` for each setting, of the keys in which those of the same name differ."""
    texts: dict[int, str] = {}
    for name in dict.fromkeys(setting.name for setting in found):
        group = [setting for setting in found if setting.name == name]
        short = short_names(changed_keys([setting.config for setting in group]))
        parts: dict[int, list[str]] = {id(setting): [] for setting in group}
        for key, end in short.items():
            have = [setting for setting in group if key in setting.config]
            for setting, value in zip(have, fitted([as_text(s.config[key]) for s in have]), strict=True):
                parts[id(setting)].append(f"{end}={value}")
        texts |= {of: " ".join(found_parts) for of, found_parts in parts.items()}
    return texts


def _rounded(summary: Summary) -> str:
    return MISSING if summary.mean is None else f"{summary.mean:,.0f}"


def _without_empty(head: list[str], lines: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """Without the columns in which no row has a value."""
    kept = [i for i in range(len(head)) if any(row[i] not in (MISSING, "") for row in lines)]
    return [head[i] for i in kept], [[row[i] for i in kept] for row in lines]
