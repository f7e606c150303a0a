"""From data to submission.csv with five folds, in two commands: their ensemble against single folds.

    python -m benchmarks.competition penguins
    python -m benchmarks.competition ants_bees --data-dir data/hymenoptera_data [--weights FILE] [--folder FOLDER]

penguins: each fifth of the rows is the test table once, and the folds are of the others. ants_bees: the folds are of
the images in `train`, the test images are those in --test-folder. `sweep.py` trains the folds and `predict.py -r SWEEP`
writes submission.csv; then each fold predicts alone. --folder: keep the runs there, and continue those that are there.
"""

import argparse
import csv
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PENGUINS = ROOT / "data_loader/penguins/penguins.csv"
FOLDS = 5
Truth = Callable[[dict[str, str]], str]  # row of a prediction -> its class


class Score(NamedTuple):
    """Summed over samples."""

    samples: int
    correct: int
    log_loss: float


class Scores(NamedTuple):
    """Of one sweep; seconds: of each of the two commands."""

    out_of_fold: Score
    folds: list[Score]
    ensemble: Score
    seconds: tuple[float, float]


def run(*command: str) -> float:
    """Run a script of this project; returns the seconds that it took."""
    env = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env=env, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return time.perf_counter() - start


def score(file: Path, truth: Truth) -> Score:
    rows = list(csv.DictReader(file.open(encoding="utf-8", newline="")))
    correct = sum(row["label"] == truth(row) for row in rows)
    return Score(len(rows), correct, -sum(math.log(max(float(row[f"prob_{truth(row)}"]), 1e-15)) for row in rows))


def compete(name: str, keys: list[str], data: Path, truth: Truth, folder: Path) -> Scores:
    """Train the folds, predict `data` by all and by each of them, and score."""
    sweep, submission = folder / name / "folds", folder / "submission.csv"
    if (sweep / "sweep.yaml").exists():
        trained = run("sweep.py", "-r", str(sweep))
    else:
        keys = [
            *keys,
            f"data_loader.args.fold=0..{FOLDS - 1}",
            f"trainer.save_dir={folder}",
            "trainer.tensorboard=false",
        ]
        trained = run("sweep.py", "-c", f"config/{name}.yaml", "--sweep-id", sweep.name, *keys)
    predicted = run("predict.py", "-r", str(sweep), "--data", str(data), "--out", str(submission), "--prob")
    alone = []
    for fold in range(FOLDS):
        out = folder / f"fold{fold}.csv"
        run("predict.py", "-r", str(sweep / f"{fold:03}"), "--data", str(data), "--out", str(out), "--prob")
        alone.append(score(out, truth))
    held_out = score(sweep / "oof.csv", lambda row: row["target"])
    return Scores(held_out, alone, score(submission, truth), (trained, predicted))


def penguins(folder: Path) -> list[Scores]:
    """Five times: a fifth of the rows is a table without species."""
    with PENGUINS.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    random.Random(1).shuffle(rows)
    rows = [{"id": str(i), **row} for i, row in enumerate(rows)]
    found = []
    for part in range(5):
        here = folder / f"part{part}"
        here.mkdir(parents=True, exist_ok=True)
        test = [row for row in rows if int(row["id"]) % 5 == part]
        write(here / "train.csv", [row for row in rows if int(row["id"]) % 5 != part])
        write(here / "test.csv", [{name: value for name, value in row.items() if name != "species"} for row in test])
        species = {row["id"]: row["species"] for row in test}
        keys = [f"data_loader.args.file={here / 'train.csv'}", "data_loader.args.test_split=0"]
        keys += ["data_loader.args.drop=[id]", "data_loader.args.validation_split=0", f"data_loader.args.folds={FOLDS}"]
        found.append(compete("penguins", keys, here / "test.csv", by_id(species), here))
    return found


def by_id(classes: dict[str, str]) -> Truth:
    return lambda row: classes[row["id"]]


def write(file: Path, rows: list[dict[str, str]]) -> None:
    with file.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def ants_bees(folder: Path, data_dir: Path, test_folder: str, weights: Path | None) -> list[Scores]:
    keys = [f"data_loader.args.data_dir={data_dir}", f"data_loader.args.cache={folder / 'images'}"]
    keys += [f"init_from={weights}"] if weights else []
    return [compete("ants_bees", keys, data_dir / test_folder, lambda row: Path(row["id"]).parent.name, folder)]


def show(found: list[Scores]) -> None:
    def line(name: str, parts: list[Score], note: str = "") -> None:
        n = sum(part.samples for part in parts)
        accuracy, loss = sum(part.correct for part in parts) / n, sum(part.log_loss for part in parts) / n
        print(f"| {name} | {n} | {accuracy:.1%}{note} | {loss:.3f} |")

    print("| | samples | accuracy | log loss |\n|---|---|---|---|")
    line("out of fold", [scores.out_of_fold for scores in found])
    columns = list(zip(*(scores.folds for scores in found), strict=True))  # by fold
    each = [sum(s.correct for s in column) / sum(s.samples for s in column) for column in columns]
    line(
        "single folds, on the test data",
        [s for column in columns for s in column],
        f" ({min(each):.1%} to {max(each):.1%})",
    )
    line("ensemble of the folds, on the test data", [scores.ensemble for scores in found])
    trained, predicted = (statistics.mean(taken) for taken in zip(*(s.seconds for s in found), strict=True))
    print(f"\nsweep.py {trained:.0f} s, predict.py {predicted:.0f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=("penguins", "ants_bees"))
    parser.add_argument("--data-dir", type=Path, default=Path("data/hymenoptera_data"))
    parser.add_argument("--test-folder", default="val")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.folder or Path(temporary)).resolve()
        if args.name == "penguins":
            show(penguins(folder))
        else:
            weights = args.weights.resolve() if args.weights else None
            show(ants_bees(folder, args.data_dir.resolve(), args.test_folder, weights))


if __name__ == "__main__":
    main()
