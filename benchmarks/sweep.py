"""Time that a sweep takes over running the same trials by hand, one train.py after the other.

    python -m benchmarks.sweep

Seeds 1 to 5 of config/digits.yaml, and a random search (extra `sweep`) of as many trials, without TensorBoard. By hand,
each run is a process that begins with importing torch. A trial of a sweep is forked from one that has done so: from
sweep.py itself, or on GPUs from a fork server. `spawn` is what a sweep does on Windows and macOS. All take turns; one
thread each.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
CONFIG = str(ROOT / "config/digits.yaml")
SPACE = "space: {optimizer.args.lr: {float: [1e-3, 1e-2], log: true}}\nsampler: random\n"
STARTED = """
import sweep
from utils.exit_codes import exit_with
slots = sweep.slots
sweep.slots = lambda *args: (*slots(*args)[:2], "START")
if __name__ == "__main__":
    exit_with(sweep.main)
"""


def timed(*commands: list[str]) -> float:
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with TemporaryDirectory(prefix="sweep-") as folder:
        Path(folder, "space.yaml").write_text(SPACE)
        began = time.monotonic()
        for command in commands:
            done = subprocess.run([sys.executable, *command], cwd=folder, env=env, capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
        return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=15)
    args = parser.parse_args()
    script, n = str(ROOT / "sweep.py"), str(args.trials)
    trainer = ["trainer.tensorboard=false", f"trainer.epochs={args.epochs}"]
    hand = [[str(ROOT / "train.py"), "-c", CONFIG, *trainer, f"seed={i + 1}"] for i in range(args.trials)]
    seeds = ["-c", CONFIG, *trainer, f"seed=1..{n}"]
    ways = {
        "by hand": hand,
        "seeds": [[script, *seeds]],
        "search": [[script, "-c", CONFIG, *trainer, "-s", "space.yaml", "--trials", n]],
        "forkserver": [["-c", STARTED.replace("START", "forkserver"), *seeds]],
        "spawn": [["-c", STARTED.replace("START", "spawn"), *seeds]],
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(args.rounds):
        for name, commands in ways.items():
            times[name].append(timed(*commands))
    for name, taken in times.items():
        ratio = statistics.median(a / b for a, b in zip(taken, times["by hand"], strict=True))
        print(f"{name:10} {statistics.median(taken):6.2f} s   {ratio:.3f} of the time by hand")


if __name__ == "__main__":
    main()
