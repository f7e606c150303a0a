"""A pass over a whole data set: validation, and test.py. Each sample counts once, however many ranks share them."""

import contextlib
from typing import Any

import torch
from torch import Tensor

from trainer.metrics import Sums, is_object, name_of
from utils import distributed
from utils.seed import mix, seed_all
from utils.tensors import each_tensor, to_device


def evaluate(trainer: Any, loader: Any, label: str) -> dict[str, float] | None:
    """The mean of each recorded value over all samples of `loader`; None after a signal, which breaks it off."""
    trainer.reporter.progress.start(label, loader.steps_per_epoch)
    trainer.model.eval()
    try:
        with contextlib.ExitStack() as stack:
            # Weights that a sharded model first puts together in inference mode could not be trained
            stack.enter_context(torch.no_grad() if trainer.sharded else torch.inference_mode())
            for callback in trainer.callbacks:
                if hasattr(callback, "during_eval"):
                    stack.enter_context(callback.during_eval(trainer))
            return _means(trainer, loader, label)
    finally:
        if trainer.sharded:
            trainer.gradients.reshard()
        trainer._recorded.clear()
        trainer.model.train()
        trainer.reporter.progress.stop()


def _means(trainer: Any, loader: Any, label: str) -> dict[str, float] | None:
    sums, objects = Sums(), [metric for metric in trainer.metrics if is_object(metric)]
    for metric in objects:
        metric.reset()
    batches, bad = loader.once(keep=True), list[tuple[int, str]]()
    lacking = trainer.sharded and loader.sampler.n // loader.sampler.cuts < trainer.world
    for i in range(loader.steps_per_epoch):
        distributed.beat(f"batch {i + 1} of the {label} after step {trainer.step}", trainer.step, -1, i)
        batch = next(batches, None)
        bad += batch.bad if batch is not None else []
        of_main = distributed.from_main(each_tensor(Tensor.cpu, batch)) if lacking else None
        if batch is not None and batch.size:  # a small last batch may leave a rank without a sample
            trainer._size = batch.size
            seed_all(mix(trainer.seed, trainer.step, trainer.rank + i * trainer.world, 0))
            with trainer.autocast():
                trainer.compiler.step(trainer.eval_step)(batch.data)
            trainer._add_recorded(sums)
        elif of_main is not None:
            _lend(trainer, of_main.data)
        trainer.reporter.progress.step()
        if trainer._asked_to_stop():
            trainer._interrupted = True
            return None
    if trainer.options.skip_bad_samples:
        trainer._note_skipped(bad)
    return sums.means() | {name_of(metric): float(metric.compute()) for metric in objects}


def _lend(trainer: Any, data: Any) -> None:
    """Compute what another rank does, which needs this one's part of the weights; nothing of it counts."""
    trainer.metrics, metrics = [], trainer.metrics
    with trainer.autocast():
        trainer.compiler.step(trainer.eval_step)(to_device(data, trainer.device))
    trainer.metrics = metrics
    trainer._recorded.clear()
