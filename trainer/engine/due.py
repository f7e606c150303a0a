"""What is due at which step: a function of its number, so that a resumed run logs, validates and saves at the same."""

from typing import Any


def is_whole(trainer: Any) -> bool:
    """Will this run reach the end that its config names? --check, find.py and trainer.limit_batches cut it short."""
    return trainer.run is not None and trainer.options.limit_batches is None


class Due:
    """Answers for `step` completed steps."""

    def __init__(self, options: Any, steps_per_epoch: int, max_steps: int, validates: bool) -> None:
        self.options, self.validates = options, validates
        self.steps_per_epoch, self.max_steps = steps_per_epoch, max_steps

    def log(self, step: int) -> bool:
        return step % self.options.log_steps == 0 or step % self.steps_per_epoch == 0 or step == self.max_steps

    def validation(self, step: int) -> bool:
        if not self.validates:
            return False
        if self.options.valid_steps:
            return step % self.options.valid_steps == 0 or step == self.max_steps
        return self.period(step, self.options.valid_period)

    def period(self, step: int, epochs: int) -> bool:
        """Does a period of this many epochs, or the run, end with this step?"""
        epoch, offset = divmod(step, self.steps_per_epoch)
        return (offset == 0 and epoch % epochs == 0) or step == self.max_steps
