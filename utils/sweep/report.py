"""What a sweep leaves behind and prints: table.csv, best.yaml, ensemble.json, plots, and the table."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

from utils.config import load
from utils.files import write_atomic
from utils.run_folder import ENSEMBLE
from utils.sweep.folder import Sweep, Trial
from utils.sweep.points import overrides_of
from utils.sweep.table import Table, plain, repeats


def write(sweep: Sweep, elsewhere: list[Trial]) -> Table:
    """Write the files. elsewhere: trials that other machines run. Raises OSError where the folder is gone or full."""
    if not sweep.exists:
        raise FileNotFoundError(f"{sweep} is gone")
    table = Table(sorted([*sweep.trials(), *elsewhere], key=lambda t: t.number), sweep.spec["objectives"])
    write_atomic(sweep.folder / "table.csv", table.to_csv().encode())
    best = table.best()
    if best is None:
        return table
    done = [trial for trial in best.trials if trial.state == "done"]
    config = load([sweep.base], overrides_of(done[0].keys))
    head = f"# {table.headline()}, of {sweep}\n#\n#   python train.py -c {sweep.folder / 'best.yaml'}\n"
    write_atomic(sweep.folder / "best.yaml", (head + config.to_yaml()).encode())
    here = [trial.name for trial in done if sweep.run_folder(trial).is_dir()]
    write_atomic(sweep.folder / ENSEMBLE, json.dumps(here).encode())
    return table


def folds(sweep: Sweep, table: Table) -> dict[Path, int]:
    """The runs of the best keys with the fold that each held out; empty for a sweep without folds."""
    best, key = table.best(), "data_loader.args.fold"
    if best is None or key not in table.keys:
        return {}
    done = {sweep.run_folder(trial): trial.keys[key] for trial in best.trials if trial.state == "done"}
    return {run: fold for run, fold in done.items() if run.is_dir()}  # the others are on another machine


def plots(sweep: Sweep, table: Table) -> list[str] | None:
    """Draw what a sweep over more than seeds and folds shows; the files. None: matplotlib is not installed."""
    if all(repeats(key) for key in table.keys):
        return []
    if importlib.util.find_spec("matplotlib") is None:
        return None
    try:
        from utils.sweep.plots import write as draw  # a file that can be deleted
    except ImportError:
        return []
    try:
        return draw(sweep.folder, str(sweep), table)
    except Exception as e:  # the table matters more than pictures of it
        print(f"the plots could not be drawn: {type(e).__name__}: {e}", file=sys.stderr)
        return []


def as_json(sweep: Sweep, table: Table, folds: dict[str, Any] | None) -> str:
    found = folds and folds | {"values": plain(folds["values"])}
    return json.dumps({"sweep": str(sweep), **table.to_dict(), "out_of_fold": found}, indent=1, ensure_ascii=False)


def as_text(sweep: Sweep, table: Table, folds: dict[str, Any] | None, drawn: list[str] | None) -> str:
    """folds: the values of out-of-fold predictions. drawn: what `plots` returned."""
    lines = ["", table.to_text(), table.headline()]
    files = ["table.csv"] + (["best.yaml"] if table.best() else [])
    if folds is not None:
        values = ", ".join(f"{name} {value:.6g}" for name, value in folds["values"].items())
        which = "all" if folds["folds"] == folds["of"] else f"{folds['folds']} of {folds['of']}"
        lines.append(f"out of fold, {folds['samples']:,} samples of {which} folds as one set: {values}")
        files += [folds["table"]] if folds["table"] else []
    if drawn is None:
        lines.append("for plots of it, install matplotlib: make extra NAME=plots")
    files += [name for name in drawn or () if name.endswith(".html")]  # which shows the pictures
    return "\n".join([*lines, f"in {sweep}: {', '.join(files)}"])
