"""Tiny real runs in this process: six steps an epoch over the digits, in a fraction of a second."""

import copy
import importlib.util
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import train
from logger import console as logger
from trainer.checkpoint import resume
from utils import config as configs
from utils.run_folder import Run
from utils.signals import SIGNALS

CONFIG: dict[str, Any] = {
    "name": "tiny",
    "n_gpu": 0,
    "arch": {"type": "MLP", "args": {"in_features": 64, "hidden": [16]}},
    "data_loader": {"type": "DigitsDataLoader", "args": {"batch_size": 28, "validation_split": 100}},
    "loss": "cross_entropy",
    "metrics": ["accuracy"],
    "optimizer": {"type": "SGD", "args": {"lr": 0.1}},
    "trainer": {"epochs": 2, "limit_batches": 6, "log_steps": 4, "tensorboard": False},
}


class Tiny:
    """Runs in `folder`, each known by its name; overrides are those of the command line."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def build(self, *overrides: str, run: str = "run", checkpoint: str | None = None) -> Any:
        config = configs.load([copy.deepcopy(CONFIG)], overrides)
        config.check()
        logger.setup(config.run.trainer.verbosity)
        folder = self.folder / run
        return train.build(config, Run(folder, folder / "checkpoints" / checkpoint if checkpoint else None))

    def train(self, *overrides: str, run: str = "run", checkpoint: str | None = None) -> Any:
        """The trainer, at the end of its run."""
        trainer = self.build(*overrides, run=run, checkpoint=checkpoint)
        try:
            if resume.start(trainer):
                trainer.train()
        finally:
            trainer.run.close()
        return trainer

    def tested(self, path: Path) -> dict[str, float]:
        """What test.py finds of a checkpoint."""
        from trainer.checkpoint import state
        from trainer.engine.evaluation import test_report

        spec = importlib.util.spec_from_file_location("test_script", Path(train.__file__).with_name("test.py"))
        assert spec is not None
        assert spec.loader is not None
        script = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(script)
        config, saved = test_report.load(path, [])
        trainer = script.build(config)
        state.load_parts(trainer, saved, path)
        trainer.step = saved["step"]
        return trainer.evaluate(trainer.data_loader, "test")

    def points(self, split: str, run: str = "run") -> list[dict[str, Any]]:
        lines = (self.folder / run / "metrics.jsonl").read_text().splitlines()
        return [point for point in map(json.loads, lines) if point["split"] == split]

    def steps(self, split: str, run: str = "run") -> list[int]:
        return [point["step"] for point in self.points(split, run)]

    def log(self, run: str = "run") -> str:
        return (self.folder / run / "log.txt").read_text()

    def checkpoints(self, run: str = "run") -> list[str]:
        return sorted(path.name for path in (self.folder / run / "checkpoints").iterdir())

    def load(self, name: str, run: str = "run") -> dict[str, Any]:
        return torch.load(self.folder / run / "checkpoints" / name, weights_only=True)


def hand_loop(built: Any, x: torch.Tensor, y: torch.Tensor, criterion: Any, steps: int) -> list[float]:
    """Train the model of a trainer with the loop that everyone would write; returns the loss of each step."""
    net = built.model.train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
    losses = []
    for step in range(steps):
        indices = built.data_loader.indices(step)
        value = criterion(net(x[indices]), y[indices])
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Tiny]:
    handlers = [signal.getsignal(number) for number in SIGNALS]
    yield Tiny(tmp_path)
    for number, handler in zip(SIGNALS, handlers, strict=True):
        signal.signal(number, handler)
    logger.log.handlers.clear()
    logger.log.propagate = True
