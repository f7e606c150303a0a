"""Time of one training step with trainer.compile, over the same without: the trainer, everything on.

    python -m benchmarks.compile

For the MLP of benchmarks.step and the ConvNet of config/mnist.yaml at batch 128, on one thread. The models take turns,
the ways of compiling too, after the compilation; medians over rounds. It needs a C++ compiler.
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
from data_loader import data_loaders
from data_loader.base_data_loader import BaseDataLoader
from trainer import resume
from utils import config as configs
from utils.run import Run

BATCH, SAMPLES, WARM = 128, 12_800, 10  # so many samples make steps of one size
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
    """A run whose steps are timed a few at a time."""

    def __init__(self, model: str, how: bool | str) -> None:
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
                    "trainer": {"max_steps": 10**6, "verbosity": 0, "save_period": 10**6, "compile": how},
                }
            ]
        )
        self.folder = tempfile.TemporaryDirectory()
        self.trainer = train.build(config, Run(Path(self.folder.name, "run")))
        resume.start(self.trainer)
        self.trainer.model.train()
        self.stream = self.trainer.data_loader.stream(0)
        self.run(WARM)

    def run(self, steps: int) -> float:
        """Seconds per step."""
        began = time.perf_counter()
        for _ in range(steps):
            self.trainer._one_step(self.stream)
        return (time.perf_counter() - began) / steps

    def close(self) -> None:
        self.trainer.reporter.close()
        self.trainer.run.close()
        self.folder.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--smoke", action="store_true", help="a few steps, to see that it works")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for model in args.models:
        ways: dict[str, bool | str] = {"no compile": False, "compile: model": "model", "compile: step": "step"}
        runs = {name: Steps(model, how) for name, how in ways.items()}
        steps = 2 if args.smoke else {"MLP": 500, "ConvNet": 20}[model]
        times: dict[str, list[float]] = {name: [] for name in ways}
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
