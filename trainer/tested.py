"""What test.py does with a checkpoint: load it, evaluate, and write the result down."""

from pathlib import Path
from typing import Any

from logger.logger import log
from logger.writers import METRICS, JsonLines
from trainer import checkpoint, state
from utils import config as configs
from utils import distributed
from utils.errors import Stopped
from utils.run import CHECKPOINTS


def load(path: Path, overrides: list[str]) -> tuple[configs.Config, dict[str, Any]]:
    """The config in a checkpoint, with `overrides`, and its state; raises Stopped if the file is not sound."""
    try:
        saved = checkpoint.load(path)
    except checkpoint.BrokenCheckpoint as e:
        raise Stopped(f"{path} cannot be used: {e}; test another checkpoint of the run: -r {path.parent}/...") from e
    config = configs.load([saved["config"]], overrides)
    config.check(train=False)
    return config, saved


def report(trainer: Any, saved: dict[str, Any], path: Path) -> None:
    """Evaluate on the test data, print a table, and add a line to the run's metrics.jsonl."""
    state.load_parts(trainer, saved, path)
    trainer.step, loader = saved["step"], trainer.data_loader
    values = trainer.evaluate(loader, "test")
    width = max(map(len, values))
    rows = "\n".join(f"  {name:<{width}}  {value:.6g}" for name, value in values.items())
    log.info(f"{path}, step {trainer.step}, on {loader.sampler.n:,} test samples\n{rows}")
    folder = path.parent.parent
    if distributed.is_main() and path.parent.name == CHECKPOINTS and (folder / "config.yaml").is_file():
        writer = JsonLines(folder)
        writer.scalars(trainer.step, saved["epoch"], "test", values)
        if writer.file.unwritten:
            raise Stopped(f"{folder / METRICS}: the result could not be written there")
        log.info(f"written to {folder / METRICS}")
