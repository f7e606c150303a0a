"""Time of one training step with trainer.compile, over the same without: the trainer, everything on.

    python -m benchmarks.compile

For the MLP of benchmarks.step and the ConvNet of config/mnist.yaml, at batch 128, on one thread. After the compilation,
the models and the variants take turns. Medians over rounds. Needs a C++ compiler.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import train
from benchmarks.step import InMemory
from data_loader import BaseDataLoader, data_loaders
from trainer.checkpoint import resume
from utils import config as configs
from utils.run_folder import Run

BATCH, SAMPLES, WARM = 128, 12_800, 10  # a multiple of BATCH: steps of one size
SHAPES = {"MLP": (64,), "ConvNet": (1, 28, 28)}
MODELS: dict[str, dict[str, Any]] = {
    "MLP": {"type": "MLP", "args": {"in_features": 64, "hidden": [128]}},
    "ConvNet": {"type": "ConvNet", "args": {"widths": [32, 64]}},
}


class BenchDataLoader(BaseDataLoader):
    def __init__(self, shape: tuple[int, ...] = (64,)):
        super().__init__(InMemory(torch.randn(SAMPLES, *shape), torch.randint(0, 10, (SAMPLES,))), BATCH)


setattr(data_loaders, "BenchDataLoader", BenchDataLoader)  # noqa: B010 (where configs look for it)


class Steps:
    """A run whose steps are timed in small groups."""

    def __init__(self, model: str, compiled: bool) -> None:
        config = configs.load(
            [
                {
                    "name": "bench",
                    "n_gpu": 0,
                    "arch": MODELS[model],
                    "data_loader": {"type": "BenchDataLoader", "args": {"shape": list(SHAPES[model])}},
                    "loss": "cross_entropy",
                    "metrics": ["accuracy"],
                    "optimizer": {"type": "AdamW", "args": {"lr": 1e-3}},
                    "trainer": {"max_steps": 10**6, "verbosity": 0, "save_period": 10**6, "compile": compiled},
                }
            ]
        )
        self.folder = tempfile.TemporaryDirectory()
        self.run_folder = Run(Path(self.folder.name, "run"))
        self.trainer = train.build(config, self.run_folder)
        resume.start(self.trainer)
        self.trainer.train_mode()
        self.stream = self.trainer.data_loader.iter_steps(0)
        self.run(WARM)

    def run(self, steps: int) -> float:
        """Seconds per step."""
        began = time.perf_counter()
        for _ in range(steps):
            self.trainer.run_step(self.stream)
        return (time.perf_counter() - began) / steps

    def close(self) -> None:
        self.trainer.reporter.close()
        self.run_folder.close()
        self.folder.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--smoke", action="store_true", help="a few steps, to see that it works")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for model in args.models:
        runs = {"no compile": Steps(model, False), "compile": Steps(model, True)}
        steps = 2 if args.smoke else {"MLP": 500, "ConvNet": 20}[model]
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(1 if args.smoke else args.rounds):
            for name, run in runs.items():
                times[name].append(run.run(steps))
        for name, seconds in times.items():
            ratio = statistics.median(a / b for a, b in zip(seconds, times["no compile"], strict=True))
            print(f"{model:8} {name:15} {statistics.median(seconds) * 1e6:9.0f} us a step   {ratio:.2f}", flush=True)
        for run in runs.values():
            run.close()


if __name__ == "__main__":
    main()
