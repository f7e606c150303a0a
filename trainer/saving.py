"""When a run saves, and what it does where that fails: no failure is silent, and none but the last ends the run."""

import contextlib
from functools import partial
from typing import Any

from logger.logger import log
from trainer import checkpoint, state
from trainer.checkpoint import Checkpoints
from utils import distributed
from utils.errors import Refused, Stopped
from utils.run import Run


class Saving:
    """The checkpoints of a trainer, from its start in a run's folder on."""

    def __init__(self, trainer: Any, run: Run) -> None:
        self.trainer, self.run, self.options = trainer, run, trainer.options
        self.checkpoints = _kind(trainer)(run.checkpoints, self.options.keep_last)
        self.done = (trainer.step, trainer.closed)  # of the last checkpoint
        self.best_due = False

    def due(self, ending: bool) -> bool:
        """Is a checkpoint due between the last step and the next, or, `ending`, at the end?"""
        trainer = self.trainer
        if self.done == (trainer.step, trainer.closed):
            return False
        if self.best_due or ending:
            return True
        if self.options.save_steps:
            return bool(trainer.step % self.options.save_steps == 0)
        return bool(trainer.every(self.options.save_period))

    def save(self) -> None:
        """Copy the state, which a thread then writes. Raises NonFinite in place of saving what is not finite."""
        trainer = self.trainer
        trainer.finite.now()
        check = partial(trainer.finite.check_state, trainer.step - 1, trainer.model, trainer.optimizers())
        if not trainer.finite.at_once:  # else copying looks, and this looks closer
            check()
        self.wait()
        saved = state.collect(trainer)
        if trainer.rank == 0 or trainer.sharded:
            self.checkpoints.save(saved, self.best_due, check if trainer.finite.at_once else None)
        self.best_due = False
        self.done = (trainer.step, trainer.closed)

    def tell_failure(self) -> None:
        """Tell of a save that failed as soon as it has; costs nothing where none did."""
        if self.checkpoints.error is not None:
            self.wait()

    def wait(self) -> bool:
        """Is the last checkpoint on the disk? If not, tells why, and the next save tries again."""
        error = self.checkpoints.wait()
        if error is not None and distributed.is_main():
            log.error(error)
        return error is None

    def finish(self) -> None:
        """All is on the disk, or this raises Stopped. At the end there is no next save: it tries once more itself."""
        if distributed.any_rank(not self.wait()):
            self._once_more()
        if lost := self.trainer.reporter.unwritten():
            raise Stopped(
                f"{', '.join(lost)} in {self.run}: the last lines could not be written; the checkpoint holds them. "
                f"Free some space, and this writes them: python train.py -r {self.run}"
            )

    def _once_more(self) -> None:
        if distributed.is_main() and not self.run.exists:
            with contextlib.suppress(Refused):
                self.run.open(self.trainer.config.to_yaml())
                log.error(f"{self.run} was deleted while the run went on: made again for its last checkpoint")
        self.save()
        if distributed.any_rank(not self.wait()):
            raise Stopped(
                f"the last checkpoint could not be saved: nothing newer than {self.newest()} is on the disk. Free some "
                f"space, or repair what the error above names, and go on from there: python train.py -r {self.run}"
            )

    def newest(self) -> str:
        newest = self.checkpoints.newest()
        return newest[0].name if newest else "the start"

    def warn_of_little_space(self) -> None:
        """Warn at the start if two checkpoints do not fit."""
        weights = sum(p.numel() * p.element_size() for p in self.trainer.model.parameters())
        need, free = 2 * 3 * weights, checkpoint.space(self.checkpoints.folder)  # Adam keeps two numbers a weight
        if free < need:
            log.warning(
                f"{self.checkpoints.folder}: {free / 1e6:,.1f} MB are free, and two checkpoints need about "
                f"{need / 1e6:,.1f} MB; free some, or give another place with trainer.save_dir=FOLDER"
            )


def _kind(trainer: Any) -> type[Checkpoints]:
    if not trainer.sharded:
        return Checkpoints
    from trainer.shards import ShardedCheckpoints  # takes half a second to import

    return ShardedCheckpoints
