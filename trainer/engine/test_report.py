"""What test.py does with a checkpoint: load it, evaluate, and write the result down."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logger.console import log
from logger.metrics_jsonl import FILE_NAME, MetricsJsonl
from trainer.checkpoint import files, state
from utils.config import Config
from utils.config import load as load_config
from utils.errors import Stopped
from utils.process import group
from utils.run_folder import CHECKPOINTS

if TYPE_CHECKING:
    from trainer.engine.base_trainer import BaseTrainer


def load(path: Path, overrides: Sequence[str]) -> tuple[Config, dict[str, Any]]:
    """The config in a checkpoint, with `overrides`, and its state; raises Stopped if the file is not sound."""
    try:
        saved = files.load(path)
    except files.BrokenCheckpoint as e:
        raise Stopped(f"{path} cannot be used: {e}; test another checkpoint of the run: -r {path.parent}/...") from e
    config = load_config([saved["config"]], overrides)
    config.facts = saved["facts"]
    config.check(train=False)
    return config, saved


def report(trainer: "BaseTrainer", saved: Mapping[str, Any], path: Path) -> None:
    """Evaluate on the test data, print a table, and add a line to the run's metrics.jsonl."""
    state.load_parts(trainer, saved, path)
    trainer.step, loader = saved["step"], trainer.data_loader
    values = trainer.evaluate(loader, "test")
    assert values is not None, "nothing handles signals here"
    width = max(map(len, values))
    rows = "\n".join(f"  {name:<{width}}  {value:.6g}" for name, value in values.items())
    log.info(f"{path}, step {trainer.step}, on {loader.sampler.n:,} test samples\n{rows}")
    folder = path.parent.parent
    if group.is_main() and path.parent.name == CHECKPOINTS and (folder / "config.yaml").is_file():
        writer = MetricsJsonl(folder)
        writer.scalars(trainer.step, saved["epoch"], "test", values)
        if writer.file.unwritten:
            raise Stopped(f"{folder / FILE_NAME}: the result could not be written there")
        log.info(f"written to {folder / FILE_NAME}")
