"""When a run saves, and what happens if that fails: every failure is reported; only one at the end stops the run."""

import contextlib
from functools import partial
from typing import TYPE_CHECKING

from logger.console import log
from trainer.checkpoint import state, writer
from utils.errors import NotSaved, UsageError
from utils.process import group
from utils.run_folder import Run

if TYPE_CHECKING:
    from trainer.engine.base_trainer import BaseTrainer


class Saving:
    """Saves the checkpoints of a trainer in a run's folder."""

    def __init__(self, trainer: "BaseTrainer", run: Run) -> None:
        self.trainer, self.run, self.options = trainer, run, trainer.options
        self.checkpoints = trainer.parallel.checkpoints(run.checkpoints, self.options.keep_last)
        self.done = (trainer.step, trainer.last_completed_step)  # of the last checkpoint
        self.best_due = self.top_due = False  # top_due: the step may be among the best

    def due(self, ending: bool) -> bool:
        """Is a checkpoint due between the last step and the next, or, `ending`, at the end?"""
        trainer = self.trainer
        if self.done == (trainer.step, trainer.last_completed_step):
            return False
        if self.best_due or ending or self._in_top:
            return True
        if self.options.save_steps:
            return bool(trainer.step % self.options.save_steps == 0)
        return trainer.due.period(trainer.step, self.options.save_period)

    @property
    def _in_top(self) -> bool:
        """Is the step one of several best that are kept?"""
        return self.top_due and self.options.keep_best > 1 and self.trainer.step in self.trainer.monitor.top_steps

    def save(self) -> None:
        """Copy the state, which a thread then writes. Raises NonFinite instead of saving what is not finite."""
        trainer = self.trainer
        trainer.finite.now()
        check = partial(trainer.finite.check_state, trainer.step - 1, trainer.model, trainer.optimizers())
        if not trainer.finite.at_once:  # otherwise copying finds it, and this finds where
            check()
        self.wait()
        saved = state.collect(trainer)
        if trainer.rank == 0 or trainer.parallel.saves_on_all_ranks:
            self.checkpoints.top = trainer.monitor.top_steps if self.options.keep_best > 1 else []
            self.checkpoints.save(saved, self.best_due, check if trainer.finite.at_once else None)
        self.best_due = self.top_due = False
        self.done = (trainer.step, trainer.last_completed_step)

    def report_failure(self) -> None:
        """Report a save that failed as soon as it has; costs nothing where none did."""
        if self.checkpoints.error is not None:
            self.wait()

    def wait(self) -> bool:
        """Is the last checkpoint on the disk? If not, reports why, and the next save tries again."""
        error = self.checkpoints.wait()
        if error is not None and group.is_main():
            log.error(error)
        return error is None

    def finish(self) -> None:
        """Return once everything is on the disk, or raise NotSaved. It retries once, as no later save will."""
        if group.any_rank(not self.wait()):
            self._once_more()
        if lost := self.trainer.reporter.unwritten():
            raise NotSaved(
                f"{', '.join(lost)} in {self.run}: the last lines could not be written; the checkpoint holds them. "
                f"Free some space, and this writes them: python train.py -r {self.run}"
            )

    def _once_more(self) -> None:
        if group.is_main() and not self.run.exists:
            with contextlib.suppress(UsageError):
                self.run.open(self.trainer.config.to_yaml())
                log.error(f"{self.run} was deleted while the run went on: made again for its last checkpoint")
        self.save()
        if group.any_rank(not self.wait()):
            raise NotSaved(
                f"the last checkpoint could not be saved: nothing newer than {self.newest()} is on the disk. Free some "
                f"space, or fix what the error above names, and continue from there: python train.py -r {self.run}"
            )

    def newest(self) -> str:
        newest = self.checkpoints.newest()
        return newest[0].name if newest else "the start"

    def warn_of_little_space(self) -> None:
        """Warn at the start if two checkpoints do not fit."""
        weights = sum(p.numel() * p.element_size() for p in self.trainer.model.parameters())
        need, free = 2 * 3 * weights, writer.space(self.checkpoints.folder)  # Adam keeps two numbers a weight
        if free < need:
            log.warning(
                f"{self.checkpoints.folder}: {free / 1e6:,.1f} MB are free, and two checkpoints need about "
                f"{need / 1e6:,.1f} MB; free some, or give another place with trainer.save_dir=FOLDER"
            )
