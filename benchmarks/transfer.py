"""Test accuracy on ants and bees: a pretrained net with a frozen backbone, fine-tuned, and from scratch.

    python -m benchmarks.transfer [--data-dir data/hymenoptera_data] [--weights FILE] [--seeds 1 2 3]

Each is config/ants_bees.yaml with a few keys changed, trained on all training images by train.py and tested once by
test.py. Without --weights, timm downloads them.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ALL_IMAGES = ["data_loader.args.fold=null", "data_loader.args.folds=null"]  # none held out
VARIANTS = {
    "frozen backbone": [
        "callbacks=[{type: Freeze, args: {freeze: ['*'], but_not: [classifier]}}]",
        "optimizer.groups=[{match: classifier, lr: 3e-3}]", "data_loader.args.min_area=0.5", "trainer.epochs=6",
    ],
    "fine-tuned": [],
    "from scratch": [
        "arch.args.pretrained=false", "callbacks=[]",
        "optimizer={type: AdamW, args: {lr: 1e-3, weight_decay: 0.05}}",
    ],
}  # fmt: skip


def accuracy(variant: str, seed: int, overrides: list[str], weights: str | None, folder: str) -> tuple[float, float]:
    """(test accuracy, seconds of training with startup) of one run."""
    keys = [
        *ALL_IMAGES,
        *overrides,
        *VARIANTS[variant],
        f"seed={seed}",
        f"trainer.save_dir={folder}",
        "trainer.tensorboard=false",
    ]
    if weights and variant != "from scratch":
        keys.append(f"init_from={weights}")
    run = Path(folder, "ants_bees", f"{variant.replace(' ', '-')}-{seed}")
    env = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    start, taken = time.perf_counter(), 0.0
    train = ["train.py", "-c", "config/ants_bees.yaml", "--run-id", run.name, "trainer.verbosity=0", *keys]
    for command in (train, ["test.py", "-r", str(run)]):
        subprocess.run([sys.executable, *command], cwd=ROOT, env=env, check=True, stdout=subprocess.DEVNULL)
        taken = time.perf_counter() - start if command is train else taken
    points = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return next(point["accuracy"] for point in points if point["split"] == "test"), taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir")
    parser.add_argument("--test-folder")
    parser.add_argument("--weights")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    args = parser.parse_args()
    overrides = [f"data_loader.args.data_dir={Path(args.data_dir).resolve()}"] if args.data_dir else []
    overrides += [f"data_loader.args.test_folder={args.test_folder}"] if args.test_folder else []
    weights = str(Path(args.weights).resolve()) if args.weights else None
    with tempfile.TemporaryDirectory() as folder:
        overrides.append(f"data_loader.args.cache={folder}/images")
        for variant in args.only:
            runs = [accuracy(variant, seed, overrides, weights, folder) for seed in args.seeds]
            values, seconds = [value for value, _ in runs], statistics.mean(taken for _, taken in runs)
            each = " ".join(f"{value:.1%}" for value in values)
            print(f"{variant:15}  {statistics.mean(values):.1%}  (seeds: {each})  {seconds:4.0f} s a run", flush=True)


if __name__ == "__main__":
    main()
