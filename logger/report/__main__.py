"""A table of runs, their curves as a page or a picture, and paired comparisons.

python -m logger.report saved                                    all runs, the best of each name first
python -m logger.report saved/mnist --out report.html            curves too, in one file that needs no network
python -m logger.report saved/mnist/a saved/mnist/b --out a.png  a picture (needs matplotlib: the extra `plots`)
python -m logger.report saved/a saved/b --paired seed            is B better than A? pairs of the same seed
"""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from logger.report import page, paired, picture, table
from logger.report.runs import Run, find
from logger.report.settings import Metric, Setting, settings
from utils.config.files import did_you_mean, nearest
from utils.errors import UsageError
from utils.exit_codes import exit_with


def main(argv: list[str] | None = None) -> int:
    args = _parsed(argv)
    for path in args.out:
        if path.suffix not in (".html", ".png"):
            raise UsageError(f"--out {path}: expected a file that ends with .html or .png")
    metric = Metric.of(args.metric) if args.metric else None
    if args.paired and len(args.folders) != 2:
        raise UsageError(f"--paired {args.paired}: expected two folders, A and B, got {len(args.folders)}")
    runs, broken = find(args.folders)
    names = dict.fromkeys(name for run in runs for name in run.names())
    if metric and names and metric.name not in names and not any(run.curve(metric.name) for run in runs):
        hint = did_you_mean(nearest(metric.name, names))
        raise UsageError(f"--metric {args.metric}: no run has it{hint}; they have {', '.join(names)}")
    comparison = None
    if args.paired:
        a, b = _sides(runs, broken, args.folders, args.paired)
        comparison = paired.compare(a, b, args.paired, metric)
    found = settings(runs, metric)
    for path in args.out:
        try:
            if path.suffix == ".html":
                path.write_text(page.html(found, broken, comparison), encoding="utf-8")
            else:
                picture.draw(found, path)
        except OSError as e:
            raise UsageError(f"--out {path}: {e.strerror or e}; give a file in a folder that you can write to") from e
    if args.json:
        result = table.as_json(found, broken) | ({"paired": comparison.as_json()} if comparison else {})
        print(json.dumps(_strict(result), indent=2, default=str, allow_nan=False))
    else:
        _print(found, broken, comparison, args.out)
    return 0


def _strict(value: Any) -> Any:
    """NaN and infinity, which JSON lacks, as null."""
    if isinstance(value, dict):
        return {key: _strict(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_strict(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _is_in(run: Path, folder: Path) -> bool:
    return run.is_relative_to(folder) or run.resolve().is_relative_to(folder.resolve())  # it may be a link


def _sides(runs: Sequence[Run], broken: dict[Path, str], folders: Sequence[Path], key: str) -> list[list[Run]]:
    """The runs of A and those of B."""
    sides = [[run for run in runs if _is_in(run.folder, folder)] for folder in folders]
    for folder, side in zip(folders, sides, strict=True):
        if not side:
            why = "".join(f"\n  {of}: {reason}" for of, reason in broken.items() if of.is_relative_to(folder))
            raise UsageError(f"--paired {key}: {folder} holds no run that can be read; give two folders that do{why}")
    return sides


def _print(found: Sequence[Setting], broken: dict[Path, str], comparison: Any, written: Sequence[Path]) -> None:
    print(table.text(*table.rows(found)))
    if sum(len(setting.runs) for setting in found) > len(found) or len(found) == 1:
        print(f"\n{table.text(*table.run_rows(found))}")
    for folder, reason in broken.items():
        print(f"\nbroken, left out: {folder}: {reason}")
    for folder, note in table.notes(found).items():
        print(f"\n{folder}: {note}")
    if comparison:
        print(f"\n{comparison}")
    for path in written:
        print(f"\nwritten to {path}")


def _parsed(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m logger.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="runs, or folders that hold runs")
    parser.add_argument(
        "--metric", metavar="NAME", help="compare by this value, such as 'min val_loss' or test_accuracy"
    )
    parser.add_argument("--paired", metavar="KEY", help="compare two folders over pairs of the same seed, fold or key")
    parser.add_argument("--out", nargs="+", type=Path, default=[], metavar="FILE", help="FILE.html, FILE.png or both")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    return parser.parse_args(argv)


if __name__ == "__main__":
    exit_with(main)
