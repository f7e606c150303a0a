"""What find.py measures: the loss over a range of learning rates, and the memory and speed over batch sizes."""

import copy
import gc
import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from trainer.engine.nonfinite import NonFinite
from trainer.engine.out_of_memory import is_out_of_memory
from utils.errors import UsageError
from utils.tensors import each_tensor

if TYPE_CHECKING:
    from trainer.engine.base_trainer import BaseTrainer

SMOOTHING = 0.9
DIVERGED = 4.0  # times the lowest loss: the range ends


class Rate(NamedTuple):
    lr: float
    loss: float
    smoothed: float


def learning_rates(trainer: "BaseTrainer", low: float, high: float, steps: int) -> list[Rate]:
    """One step at each rate from low to high, equally far apart by factors, until the loss is not finite or far above
    its lowest (Smith, Cyclical Learning Rates, 2017). Of parameter groups, the first whose lr is not 0 has this rate;
    the others keep their ratio to it.
    """
    groups = [group for optimizer in trainer.optimizers() for group in optimizer.param_groups]
    rates = [float(group["lr"]) for group in groups]
    first = next((rate for rate in rates if rate), None)
    if first is None:
        raise UsageError("optimizer.args.lr: it is 0 for all parameters; give any other, such as 1e-3")
    ratios = [rate / first for rate in rates]
    found: list[Rate] = []
    mean = weight = 0.0
    stream = trainer.data_loader.iter_steps(0)
    trainer.train_mode()
    try:
        with trainer.reporter.muted():
            for i in range(steps):
                lr = low * (high / low) ** (i / max(1, steps - 1))
                for group, ratio in zip(groups, ratios, strict=True):
                    group["lr"] = lr * ratio
                trainer.run_step(stream)
                loss = trainer.collect()[trainer.loss_names[0]]
                mean, weight = SMOOTHING * mean + (1 - SMOOTHING) * loss, SMOOTHING * weight + (1 - SMOOTHING)
                found.append(Rate(lr, loss, mean / weight))
                if len(found) > steps // 10 and found[-1].smoothed > DIVERGED * min(r.smoothed for r in found):
                    break
    except NonFinite:
        pass  # too high
    finally:
        stream.close()
    return found


def steepest(found: Sequence[Rate]) -> float | None:
    """The rate at which the smoothed loss falls fastest over log(lr); None where it never falls."""
    lowest = min(range(len(found)), key=lambda i: found[i].smoothed, default=0)
    width = max(2, len(found) // 10)
    best, at = 0.0, None
    for i in range(width, lowest - width + 1):
        part = found[i - width : i + width + 1]
        slope = float(np.polyfit([math.log(r.lr) for r in part], [r.smoothed for r in part], 1)[0])
        if slope < best:
            best, at = slope, found[i].lr
    return at


class Size(NamedTuple):
    batch_size: int
    samples_per_s: float
    gigabytes: float  # the most that was allocated on the GPU at one time; NaN on a CPU


def batch_sizes(trainer: "BaseTrainer", most: int) -> tuple[list[Size], int | None]:
    """The sizes that fit, the largest last: doubled up to `most`, and where one is too large, halved in between.

    And the smallest that does not fit; None where all did. Steps with a learning rate of 0, on copies of the first
    samples.
    """
    for optimizer in trainer.optimizers():
        for group in optimizer.param_groups:
            group["lr"] = 0.0
    stream = trainer.data_loader.iter_steps(0)
    first = next(stream)
    stream.close()
    trainer.train_mode()
    found: list[Size] = []
    size, too_large = min(most, max(2, first.size // 8)), most + 1
    limit: int | None = None
    while size < too_large:
        measured = _measured(trainer, first, size)
        if measured is None:
            too_large = limit = size
        else:
            found.append(measured)
        fits = found[-1].batch_size if found else 0
        size = (fits + too_large) // 2 if limit else min(2 * fits, most)
        if size == fits or not size:
            break
    return found, limit


def _measured(trainer: "BaseTrainer", first: Any, size: int) -> Size | None:
    """The faster of two steps on `size` samples, after one to warm up; None if they do not fit into memory."""
    cuda = trainer.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(trainer.device)
    seconds = []
    try:
        for _ in range(3):
            batch = copy.copy(first)
            batch.data, batch.indices, batch.size = _repeated(first, size), np.arange(size), size
            trainer.set_step_size(size)
            began = time.perf_counter()
            with trainer.reporter.muted():
                trainer.compute_step([batch])
                trainer.collect()  # waits for the device
            seconds.append(time.perf_counter() - began)
    except RuntimeError as e:
        if not is_out_of_memory(e):
            raise
    else:
        peak = torch.cuda.max_memory_allocated(trainer.device) / 1e9 if cuda else math.nan
        return Size(size, size / min(seconds[1:]), peak)
    trainer.window.clear()
    trainer.model.zero_grad(set_to_none=True)
    for optimizer in trainer.optimizers():
        optimizer.state.clear()  # memory may have run out between two tensors of a parameter's state
    gc.collect()
    if cuda:
        torch.cuda.empty_cache()
    return None


def _repeated(batch: Any, size: int) -> Any:
    """The samples of a batch again and again, `size` in all."""

    def repeat(tensor: Tensor) -> Tensor:
        if not tensor.dim() or len(tensor) != batch.size:
            return tensor
        return tensor[torch.arange(size, device=tensor.device) % batch.size]

    return each_tensor(repeat, batch.data)
