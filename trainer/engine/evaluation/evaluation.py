"""A pass over a whole data set: validation, and test.py. Each sample counts once, however many ranks share them."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor

from trainer.engine.metrics import Sums
from trainer.engine.optim.schedules import by_name
from utils.errors import Stopped
from utils.process import group
from utils.process.watchdog import heartbeat
from utils.seed import mix, seed_all
from utils.tensors import each_tensor, to_device

if TYPE_CHECKING:
    from trainer.engine.base_trainer import BaseTrainer


def validate(trainer: "BaseTrainer") -> dict[str, float] | None:
    """The values of every validation set; of those that have names, as NAME_loss. None after a signal."""
    values: dict[str, float] = {}
    for number, (name, loader) in enumerate(by_name(trainer.valid_data_loader).items()):
        found = trainer.evaluate(loader, f"validation on {name}" if name else "validation", number)
        if found is None:
            return None
        named = {f"{name}_{key}" if name else key: value for key, value in found.items()}
        if twice := values.keys() & named.keys():
            raise Stopped(f"two validation sets log the same name, val_{min(twice)}; give one of them another name")
        values |= named
    return values


class Evaluation:
    """Calls `eval_step` for each batch of a loader, in eval mode, without gradients, with the callbacks' weights."""

    def __init__(self, trainer: "BaseTrainer", loader: Any, label: str, number: int = 0) -> None:
        """label: what the progress bar and the watchdog call it. number: evaluations before it after the same step."""
        self.trainer, self.loader, self.label, self.number = trainer, loader, label, number
        self.sums = Sums()

    def run(self) -> dict[str, float] | None:
        """The mean of each recorded value over all samples, and the value of each metric object.

        None after a signal, which ends it early.
        """
        trainer = self.trainer
        with self._prepared():
            batches, bad = self.loader.iter_epoch(keep=True), list[tuple[int, str]]()
            for i in range(self.loader.steps_per_epoch):
                what = f"batch {i + 1} of the {self.label} after step {trainer.step}"
                heartbeat(what, trainer.step, -1, self.number, i)
                batch = next(batches, None)
                bad += batch.bad if batch is not None else []
                self._batch(i, batch)
                trainer.reporter.progress.step()
                if trainer.asked_to_stop():
                    trainer.interrupted = True
                    return None
            if trainer.options.skip_bad_samples:
                trainer.note_skipped(bad)
            return self.sums.means() | trainer.metrics.compute()

    @contextlib.contextmanager
    def _prepared(self) -> Iterator[None]:
        trainer = self.trainer
        trainer.reporter.progress.start(self.label, self.loader.steps_per_epoch)
        trainer.evaluating = self.label
        try:
            with contextlib.ExitStack() as stack:
                stack.enter_context(trainer.eval_mode())
                stack.enter_context(trainer.metrics.evaluating())
                stack.enter_context(trainer.recording(self.sums))
                for callback in trainer.callbacks:
                    if hasattr(callback, "during_eval"):
                        stack.enter_context(callback.during_eval(trainer))
                yield
        finally:
            trainer.parallel.after_evaluation()
            trainer.reporter.progress.stop()

    def _batch(self, i: int, batch: Any) -> None:
        """Evaluate one batch. A small last batch may leave this rank without a sample: None."""
        trainer, sampler = self.trainer, self.loader.sampler
        of_main = None
        if trainer.parallel.needs_all_ranks(sampler.n // sampler.num_steps):
            of_main = group.broadcast(None if batch is None else (each_tensor(Tensor.cpu, batch.data), batch.size))
        if batch is not None and batch.size:
            batch.data = trainer.unpack(batch.data)
            seed_all(mix(trainer.seed, trainer.step, trainer.rank + i * trainer.world_size, 0))
            outputs = trainer.evaluate_batch(batch.data, batch.size)
            for callback in trainer.callbacks:
                if hasattr(callback, "after_eval_batch"):
                    callback.after_eval_batch(trainer, batch, outputs)
        elif of_main is not None:
            self._compute_along(*of_main)

    def _compute_along(self, data: Any, size: int) -> None:
        """Run rank 0's computation, which needs this rank's shards of the weights; the result is discarded."""
        trainer = self.trainer
        data = trainer.unpack(to_device(data, trainer.device))
        with trainer.recording(Sums()), trainer.metrics.paused():
            trainer.evaluate_batch(data, size)
