"""What each callback that shows something costs: the seconds in its hooks over those of the run, with TensorBoard.

    python -m benchmarks.callbacks [--data-dir data/] [--epochs 3]

config/mnist.yaml, validated after each epoch. One run, one thread; the share is of the time of the run without them.
"""

import argparse
import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import train
from logger import console
from trainer.checkpoint import resume
from utils.config import load
from utils.run_folder import Run

CALLBACKS: dict[str, dict[str, Any]] = {
    "ConfusionMatrix": {},
    "Mistakes": {},
    "Predictions": {},
    "PerClassAccuracy": {},
    "PRCurves": {},
    "Histograms": {"every": 200},
    "Embeddings": {"samples": 1000},
    "GPUMemory": {},
}
HOOKS = ("before_training", "after_step", "after_eval_batch", "after_epoch")


class Timed:
    """Adds up the seconds that a callback's hooks take."""

    def __init__(self, callback: Any) -> None:
        self.callback, self.name, self.seconds, self.first = callback, type(callback).__name__, 0.0, 0.0
        for hook in HOOKS:
            if hasattr(callback, hook):
                setattr(self, hook, self._timed(getattr(callback, hook)))
        if hasattr(callback, "during_eval"):
            setattr(self, "during_eval", self._evaluation)  # noqa: B010

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args)
            finally:
                self.seconds += time.perf_counter() - start

        return timed

    @contextlib.contextmanager
    def _evaluation(self, trainer: Any) -> Iterator[None]:
        inner = self.callback.during_eval(trainer)
        self._timed(inner.__enter__)()
        yield
        self._timed(inner.__exit__)(None, None, None)
        self.first = self.first or self.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", default="data/")
    parser.add_argument("--epochs", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    parts = [{"type": name, "args": given} for name, given in CALLBACKS.items()]
    changes = [f"data_loader.args.data_dir={args.data_dir}", f"trainer.epochs={args.epochs}", "trainer.verbosity=0"]
    with tempfile.TemporaryDirectory() as folder, console.started(0):
        config = load(["config/mnist.yaml", {"callbacks": parts}], changes)
        config.check()
        folder_of_run = Run(Path(folder, "run"))
        trainer = train.build(config, folder_of_run)
        timed = [Timed(callback) for callback in trainer.callbacks]
        trainer.callbacks = list(timed)
        resume.start(trainer)
        start = time.perf_counter()
        trainer.train()
        folder_of_run.close()
        run = time.perf_counter() - start - sum(one.seconds for one in timed)
    print(f"the run without them: {run:.1f} s, {args.epochs} epochs")
    for one in timed:
        later = (one.seconds - one.first) / max(args.epochs - 1, 1)
        share = f"{one.seconds / run:6.2%} of it"
        print(f"{one.name:18} {one.seconds:6.2f} s, {share}; an epoch after the first {later:5.2f} s")


if __name__ == "__main__":
    main()
