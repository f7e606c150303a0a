"""What callbacks share that evaluate with averaged weights: EMA, SWA and ScheduleFree."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.modules.batchnorm import _NormBase

from trainer.parallel import buffers
from utils.errors import UsageError
from utils.process.watchdog import heartbeat
from utils.seed import mix, seed_all
from utils.tensors import local, unwrap

if TYPE_CHECKING:
    from trainer.engine.base_trainer import BaseTrainer

STATISTICS_KEY = -7  # what the pass that updates batch norm draws


class AveragedWeights:
    """Validates and tests with `average`, and saves it as the checkpoint's `model`; training goes on with the weights.

    Until there is an average, the weights themselves are evaluated.
    """

    def __init__(self) -> None:
        self.average: dict[str, Tensor] = {}
        self._left_out: set[str] | None = None  # buffers that are not averaged

    def before_training(self, trainer: "BaseTrainer") -> None:
        others = [type(o).__name__ for o in trainer.callbacks if isinstance(o, AveragedWeights) and o is not self]
        if others:
            raise UsageError(
                f"callbacks: {type(self).__name__} and {others[0]} both give the weights to evaluate and to save; "
                f"leave out one of them"
            )

    @contextmanager
    def during_eval(self, trainer: "BaseTrainer") -> Iterator[None]:
        with self.swapped(trainer):
            yield

    def evaluated_weights(self) -> Mapping[str, Tensor]:
        """What a checkpoint has as `model`: what was validated."""
        return self.average

    @contextmanager
    def swapped(self, trainer: "BaseTrainer") -> Iterator[None]:
        """Within this, the model has the averaged weights."""
        model = _tensors(trainer)
        replaced = {name: model[name] for name in self.average if name in model}
        kept = {name: weight.clone() for name, weight in replaced.items()}
        with torch.no_grad():
            for name, weight in replaced.items():
                weight.copy_(self.average[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, weight in replaced.items():
                    weight.copy_(kept[name])

    def weights(self, trainer: "BaseTrainer") -> dict[str, Tensor]:
        """Parameters and floating-point buffers (batch norm's statistics); not those with infinities, such as masks."""
        state = _tensors(trainer)
        if self._left_out is None:
            parameters = dict(unwrap(trainer.model).named_parameters(remove_duplicate=False))
            self._left_out = {name for name, t in state.items() if not _can_be_averaged(t, name in parameters)}
        return {name: t for name, t in state.items() if name not in self._left_out}

    def averaged_with(self, weights: Mapping[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """The average and the weights as lists of tensors on this rank; a new tensor begins as the weight itself."""
        for name, weight in weights.items():  # an observer's buffer may get another shape when it sees its first data
            kept = self.average.get(name)
            if kept is None or kept.shape != weight.shape:
                self.average[name] = weight.clone()
            elif kept.device != weight.device:  # of a checkpoint
                self.average[name] = kept.to(weight.device)
        return [local(self.average[name]) for name in weights], [local(weight) for weight in weights.values()]

    @torch.no_grad()
    def update_batch_norm(self, trainer: "BaseTrainer", steps: int | None, at: tuple[int, ...]) -> None:
        """Add batch norm's statistics of the averaged weights over the steps that come next. All ranks must call it.

        steps: None: an epoch. at: the position for the watchdog. Costs the forward passes of these steps.
        """
        norms = running_norms(trainer)
        if not norms:
            return
        statistics = {
            f"{name}.{key}".removeprefix("."): t for name, module in norms.items() for key, t in module.named_buffers()
        }
        changed = list(unwrap(trainer.model).buffers())  # spectral norm and others change theirs, too
        kept = [t.clone() for t in changed]
        in_order = _InOrder(norms.values(), trainer.world_size) if trainer.options.exact_ranks else None
        with self.swapped(trainer), _cumulative(norms, momentum=1.0 if in_order else None):
            seed_all(mix(trainer.seed, trainer.step, STATISTICS_KEY, trainer.rank))
            for i, inputs in enumerate(_next_inputs(trainer, steps or trainer.steps_per_epoch, at)):
                if in_order:  # each micro-batch alone
                    torch._foreach_copy_(changed, kept)
                    seed_all(mix(trainer.seed, trainer.step, STATISTICS_KEY, trainer.rank + i * trainer.world_size))
                if inputs is not None:
                    with trainer.autocast():
                        trainer.predict_step(inputs)
                if in_order:
                    in_order.add(inputs is not None)
            if in_order:
                in_order.finish()
            elif trainer.world_size > 1:
                buffers.average_tensors([t for t in statistics.values() if t.is_floating_point()])
            self.average |= {name: t.clone() for name, t in statistics.items()}
            trainer.parallel.after_evaluation()  # what was gathered of sharded weights is of the averaged ones
        torch._foreach_copy_(changed, kept)


class _InOrder:
    """The mean of batch norm's statistics over the micro-batches of all ranks, in the order of trainer.exact_ranks."""

    def __init__(self, norms: Collection[_NormBase], world_size: int) -> None:
        self._tensors, self._counts = buffers.running_statistics([*norms]), buffers.batch_counts([*norms])
        self._world_size = world_size
        self._total: Tensor | None = None  # and, as its last element, the number of micro-batches

    def add(self, has_samples: bool) -> None:
        """The statistics of the next micro-batch of each rank. All ranks must call it."""
        flat = torch.cat([t.flatten() for t in self._tensors])
        mine = torch.cat([flat, flat.new_ones(1)]) * has_samples
        each = [torch.empty_like(mine) for _ in range(self._world_size)] if self._world_size > 1 else [mine]
        if self._world_size > 1:
            dist.all_gather(each, mine)
        for of_rank in each:
            self._total = of_rank if self._total is None else self._total + of_rank

    def finish(self) -> None:
        """Put the mean in place."""
        assert self._total is not None
        buffers.unpack(self._total[:-1] / self._total[-1], self._tensors)
        for count in self._counts:
            count.copy_(self._total[-1])


def check_batch_norm(trainer: "BaseTrainer", name: str) -> None:
    """Raise UsageError where `update_batch_norm` could not call the model. name: of the callback."""
    if trainer.calls_parts and running_norms(trainer):
        raise UsageError(
            f"callbacks: {name} computes batch norm's statistics by predict_step, but {type(trainer).__name__} calls "
            f"parts of the model on their own; use EMA, which averages the statistics"
        )


def running_norms(trainer: "BaseTrainer") -> dict[str, _NormBase]:
    """Batch norm with running statistics; not frozen ones, which are in eval mode while the model trains."""
    modules = unwrap(trainer.model).named_modules()
    return {name: m for name, m in modules if buffers.is_batch_norm(m) and m.training}


def _next_inputs(trainer: "BaseTrainer", steps: int, at: tuple[int, ...]) -> Iterator[Any]:
    """The inputs of the steps that come next, which follow from the step alone; None where no sample was readable."""
    loader = trainer.data_loader
    stream = loader.iter_steps(trainer.step)
    try:
        for i in range(steps * loader.sampler.accumulate):
            heartbeat(f"batch {i + 1} of batch norm's statistics after step {trainer.step}", *at, i)
            batch = next(stream)
            yield trainer.inputs_of(trainer.unpack(batch.data)) if batch.size else None
    finally:
        stream.close()


@contextmanager
def _cumulative(norms: Mapping[str, _NormBase], momentum: float | None) -> Iterator[None]:
    """Within this, running statistics start over: None: as the mean over all batches, as in swa_utils.update_bn."""
    momenta = {module: module.momentum for module in norms.values()}
    for module in momenta:
        module.reset_running_stats()
        module.momentum = momentum
    try:
        yield
    finally:
        for module, before in momenta.items():
            module.momentum = before


def _tensors(trainer: "BaseTrainer") -> dict[str, Tensor]:
    state: dict[str, Any] = unwrap(trainer.model).state_dict()
    return {name: t for name, t in state.items() if isinstance(t, Tensor)}


def _can_be_averaged(tensor: Tensor, is_parameter: bool) -> bool:
    return (tensor.is_floating_point() or tensor.is_complex()) and (is_parameter or bool(tensor.isfinite().all()))
