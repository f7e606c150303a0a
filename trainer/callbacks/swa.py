"""SWA: evaluates with the average of the weights from the end of training (stochastic weight averaging)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim.swa_utils import get_swa_multi_avg_fn

from trainer.engine.base_trainer import BaseTrainer
from trainer.engine.evaluation.averaged_weights import AveragedWeights
from trainer.parallel import buffers
from utils.errors import UsageError
from utils.process.watchdog import heartbeat
from utils.seed import mix, seed_all
from utils.tensors import unwrap

SWA_KEY = -7  # what the pass that updates batch norm draws


class SWA(AveragedWeights):
    """Validates and tests with the plain mean of weights (Izmailov et al., 2018, arXiv:1803.05407).

    start: the step from which weights are averaged; as a float below 1, a fraction of all steps. every: steps between
    two weights of the mean; null: an epoch. bn_steps: steps' worth of training data that batch norm's statistics are
    computed anew from, without which the mean of weights is useless; null: an epoch.
    """

    def __init__(self, start: int | float = 0.75, every: int | None = None, bn_steps: int | None = None) -> None:
        super().__init__()
        if start < 0 or (isinstance(start, float) and start >= 1) or (every is not None and every < 1):
            raise UsageError(
                f"callbacks: SWA has start {start} and every {every}; give a step or a fraction below 1 as start, and "
                f"1 or more as every"
            )
        self.start, self.every, self.bn_steps = start, every, bn_steps
        self.averaged = 0  # weights in the mean

    def before_training(self, trainer: BaseTrainer) -> None:
        if trainer.calls_parts and _norms(trainer):
            raise UsageError(
                f"callbacks: SWA computes batch norm's statistics by predict_step, but {type(trainer).__name__} calls "
                f"parts of the model on their own; use EMA, which averages the statistics"
            )

    @torch.no_grad()
    def after_step(self, trainer: BaseTrainer) -> None:
        first = int(self.start * trainer.max_steps) if isinstance(self.start, float) else self.start
        if trainer.step < first or trainer.step % (self.every or trainer.steps_per_epoch):
            return
        averages, weights = self.averaged_with(dict(unwrap(trainer.model).named_parameters(remove_duplicate=False)))
        get_swa_multi_avg_fn()(averages, weights, torch.tensor(self.averaged, device=trainer.device))
        self.averaged += 1
        if norms := _norms(trainer):
            self._update_batch_norm(trainer, norms)

    def _update_batch_norm(self, trainer: BaseTrainer, norms: dict[str, _NormBase]) -> None:
        """The statistics of the averaged weights over the training data, into the average. All ranks must call it."""
        statistics = _statistics(norms)
        kept = {name: t.clone() for name, t in statistics.items()}
        with self.swapped(trainer), _cumulative(norms):
            seed_all(mix(trainer.seed, trainer.step, SWA_KEY, trainer.rank))
            for inputs in self._inputs(trainer):
                with trainer.autocast():
                    trainer.predict_step(inputs)
            if trainer.world_size > 1:
                buffers.average_tensors([t for t in statistics.values() if t.is_floating_point()])
            self.average |= {name: t.clone() for name, t in statistics.items()}
            trainer.parallel.after_evaluation()  # what was gathered of sharded weights is of the averaged ones
        for name, t in statistics.items():
            t.copy_(kept[name])

    def _inputs(self, trainer: BaseTrainer) -> Iterator[Any]:
        """The inputs of the steps that come next, which follow from the step alone: those of the next epoch."""
        loader = trainer.data_loader
        stream = loader.iter_steps(trainer.step)
        try:
            for i in range((self.bn_steps or trainer.steps_per_epoch) * loader.sampler.accumulate):
                heartbeat(f"batch {i + 1} of batch norm's statistics after step {trainer.step}", trainer.step, 3, i)
                batch = next(stream)
                if batch.size:
                    data = trainer.unpack(batch.data)
                    yield trainer.inputs_of(data)
        finally:
            stream.close()

    def state_dict(self) -> dict[str, Any]:
        return {"averaged": self.averaged, "average": self.average}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.averaged, self.average = state["averaged"], dict(state["average"])


def _norms(trainer: BaseTrainer) -> dict[str, _NormBase]:
    """Batch norm with running statistics; not frozen ones, which are in eval mode."""
    modules = unwrap(trainer.model).named_modules()
    return {name: m for name, m in modules if isinstance(m, _NormBase) and m.track_running_stats and m.training}


def _statistics(norms: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    return {f"{name}.{key}".removeprefix("."): t for name, module in norms.items() for key, t in module.named_buffers()}


@contextmanager
def _cumulative(norms: Mapping[str, _NormBase]) -> Iterator[None]:
    """Within this, running statistics begin anew, and are the mean over all batches, as in swa_utils.update_bn."""
    momenta = {module: module.momentum for module in norms.values()}
    for module in momenta:
        module.reset_running_stats()
        module.momentum = None
    try:
        yield
    finally:
        for module, momentum in momenta.items():
            module.momentum = momentum
