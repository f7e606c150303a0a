"""How a run ends: finished, by a signal, or by an error that can be explained."""

from typing import TYPE_CHECKING

from logger.console import log
from trainer.engine.commands import replay
from trainer.engine.nonfinite import NonFinite
from trainer.engine.speed import compilation
from trainer.engine.summary import ending
from utils.errors import Interrupted, SampleError, Stopped, UsageError, dead_worker

if TYPE_CHECKING:
    from trainer.engine.base_trainer import BaseTrainer


def stop(trainer: "BaseTrainer") -> None:
    """Put the last checkpoint on the disk, or raise Stopped; print the result. Raises Interrupted after a signal."""
    trainer.stop_votes.close()  # no rank may leave in the middle of it
    if trainer.saving is not None:
        with trainer.clock.phase("checkpoints"):
            trainer.saving.finish()
    log.info(trainer.clock)
    for line in ending.advice(trainer):
        log.info(line)
    if not trainer.finished:
        text = f"stopped by {trainer.signal.reason} after step {trainer.step}/{trainer.max_steps}; saved. "
        text += f"Continue with: python train.py -r {trainer.run}"
        log.info(text)
        if trainer.world_size > 1:
            log.info(f"each process ends with {trainer.signal.exit_code}, which torchrun turns into 1")
        raise Interrupted(text if not log.handlers else "", trainer.signal.exit_code)
    trainer.reporter.result(trainer.step, trainer.values, trainer.monitor)
    for line in ending.lines(trainer, early_reason(trainer)):
        log.info(line)


def early_reason(trainer: "BaseTrainer") -> str | None:
    """Why the run ended before its last step; None if it did not."""
    if trainer.monitor.stop:
        return f"{trainer.monitor.name} has not improved in {trainer.monitor.bad_count} validations"
    return trainer.stop_reason


def explained(trainer: "BaseTrainer", error: Exception) -> Exception:
    """What to raise instead of an error of the loop: one that says why and what to do. Others are returned as they are.

    torch reports a dead data loader worker wherever the main process is at that moment.
    """
    if isinstance(error, NonFinite):
        return Stopped(replay.explain(trainer, error))
    known = dead_worker(error) or compilation.failed(error) or trainer.out_of_memory.explained(error) or error
    if trainer.step == 0 and isinstance(known, SampleError):
        return UsageError(str(known))
    return known
