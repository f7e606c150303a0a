"""What is due between two steps: a validation, the best model so far, the end of an epoch."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from trainer.engine.evaluation import evaluation
from trainer.engine.metrics import means
from utils.errors import Stopped

if TYPE_CHECKING:
    from trainer.engine.base_trainer import BaseTrainer


def complete(trainer: "BaseTrainer", end_of_epoch: bool, validates: bool) -> None:
    """Validate and end the epoch, where these are due after `trainer.step`. Stops in the middle after a signal."""
    values: dict[str, float] = {}
    if validates:
        valid = evaluation.validate(trainer)
        if valid is None:
            return
        trainer.reporter.values("valid", trainer.step, valid)
        values = {f"val_{name}": value for name, value in valid.items()}
    if end_of_epoch:
        values = means(trainer.epoch_sums.read()) | values
        trainer.epoch_sums.clear()
    trainer.values = values or trainer.values
    watched = _watched(trainer, values, end_of_epoch)
    best = watched is not None and trainer.monitor.update(watched, trainer.step)
    if trainer.saving is not None:
        trainer.saving.best_due, trainer.saving.top_due = best, watched is not None
    for schedule in trainer.schedules():
        schedule.after_validation(watched)
    if values:
        shown = trainer.metrics.short(values)
        if watched is not None:  # it may be an element of a long vector
            shown = {**shown, trainer.monitor.key: watched}
        trainer.reporter.summary(trainer.step, shown, end_of_epoch, trainer.monitor.key if best else "")
    if end_of_epoch:
        for callback in trainer.callbacks:
            if hasattr(callback, "after_epoch"):
                callback.after_epoch(trainer, values)
    trainer.last_completed_step = trainer.step
    trainer.reporter.start_epoch(trainer.step)


def _watched(trainer: "BaseTrainer", values: Mapping[str, float], end_of_epoch: bool) -> float | None:
    """The value that `monitor` names, if there is one after this step."""
    if trainer.monitor.mode == "off":
        return None
    name = trainer.monitor.key
    if name in values:
        return values[name]
    validated = any(key.startswith("val_") for key in values)
    if validated if name.startswith("val_") else end_of_epoch:
        raise Stopped(f"trainer.monitor: this run does not produce {name}; it produces {', '.join(values)}")
    return None
