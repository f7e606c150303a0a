"""What test.py does with a checkpoint: load it, evaluate, and write the result down."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from logger.console import log
from logger.metrics_jsonl import FILE_NAME, MetricsJsonl
from logger.writer import RunInfo
from trainer.checkpoint import files, state
from trainer.engine.evaluation import samples
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


def report(
    trainer: "BaseTrainer",
    saved: Mapping[str, Any] | None,
    path: Path,
    by_class: bool = False,
    save: Path | None = None,
) -> None:
    """Evaluate on the test data, print a table, and add a line to the run's metrics.jsonl.

    saved: the state in the checkpoint; None: the model is ready. by_class: print more. save: where to write the outputs
    of each sample.
    """
    if saved is not None:
        state.load_parts(trainer, saved, path)
        trainer.step = saved["step"]
    collector, loader = samples.Collector(), trainer.data_loader
    if by_class or save is not None:
        trainer.callbacks.append(collector)
    folder = path.parent.parent
    of_run = saved is not None and path.parent.name == CHECKPOINTS and (folder / "config.yaml").is_file()
    if saved is not None and of_run and group.is_main():
        run = RunInfo(folder, saved["config"], step=trainer.step)
        trainer.reporter.open_for_test(trainer.config.build("logger"), run)
    values = trainer.evaluate(loader, "test")
    assert values is not None, "nothing handles signals here"
    width = max(map(len, values))
    rows = "\n".join(f"  {name:<{width}}  {value:.6g}" for name, value in values.items())
    step = f", step {trainer.step}" if saved is not None else ""
    log.info(f"{path}{step}, on {loader.sampler.n:,} test samples\n{rows}")
    if collector in trainer.callbacks and (found := collector.collected(loader)):
        loss, facts = trainer.config.run.loss.type, trainer.config.facts
        if by_class:
            log.info("\n".join(samples.report(found, loss, facts)))
        if save is not None:
            samples.save(found, save, loss, facts)
    if saved is not None and of_run and group.is_main():
        writer = MetricsJsonl(folder)
        writer.scalars(trainer.step, saved["epoch"], "test", values)
        if writer.file.unwritten:
            raise Stopped(f"{folder / FILE_NAME}: the result could not be written there")
        log.info(f"written to {folder / FILE_NAME}")
        trainer.reporter.test_result(trainer.step, saved["epoch"], values)
    trainer.reporter.close()
