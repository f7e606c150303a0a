"""`trainer.parallel: ddp`: every rank holds the whole model, and gradients are averaged."""

import contextlib
import weakref
from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainer.parallel import buffers
from trainer.parallel.base import NOTHING, Strategy
from utils.errors import Stopped
from utils.process import group
from utils.process.group import world_size

# Where gradients travel while others are computed. On a CPU both need its cores: all at once after the pass is faster
OVERLAPPED = {"cuda"}
_wrapped: "weakref.WeakSet[DistributedDataParallel]" = weakref.WeakSet()


def _free() -> None:
    """Destroy DDP's reducers before the process group: later, torch 2.10 deadlocks over the GIL."""
    for ddp in _wrapped:
        del ddp.reducer, ddp.logger
    _wrapped.clear()


group.before_leaving.append(_free)


class Replicated(Strategy):
    """Averages gradients in the backward pass where the model is a DistributedDataParallel, else after it.

    In the backward pass only if in the first step every trained parameter had a gradient on every rank. After it is
    right for any model, and takes the statistics of batch norm along. Where parameters are frozen or unfrozen, the next
    step is a first one again.
    """

    ddp: DistributedDataParallel | None = None

    def wrap(self, model: nn.Module) -> nn.Module:
        return overlapped(model, self.device)

    def connect(self) -> None:
        self.ddp = self.model if isinstance(self.model, DistributedDataParallel) else None
        self._parameters = dict(self.model.named_parameters()) if self.ddp else {}
        self.named = self._trained()
        self._overlapped = self.named  # what the DistributedDataParallel was made for
        self.norms = [] if self.ddp else buffers.batch_norms(self.model)
        if not self.ddp:  # which does it by itself
            buffers.broadcast_model(self.model)
        # Has every parameter a gradient on every rank? None: not known yet. False: a rank may have no samples
        self.complete = False if self.options.skip_bad_samples else None
        self._in_backward = False
        self._averaged = False

    def _trained(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self._parameters.items() if p.requires_grad}

    def begin_pass(self) -> None:
        self._in_backward = self._averaged = False
        if self.ddp is None or self.options.skip_bad_samples:
            return
        trained = self._trained()
        if trained.keys() != self.named.keys():
            self.named, self.complete = trained, None
        elif self.complete and trained.keys() != self._overlapped.keys():  # it would wait for the others' gradients
            wrap_again(self.ddp)
            self._overlapped = trained

    def micro_batch(self, last: bool) -> AbstractContextManager[None]:
        if self.ddp is None:
            return NOTHING
        self._in_backward = last and bool(self.complete)
        return contextlib.nullcontext() if self._in_backward else self.ddp.no_sync()

    def another_backward(self) -> None:
        if self.ddp is None:
            return
        if self._in_backward:
            raise Stopped(
                "train_step calls backward() twice in one micro-batch, but did not in the first step. Over several "
                "GPUs call it once with the sum of the losses, or set `calls_parts = True` in the trainer"
            )
        self.complete = False

    def average(self, parameters: Sequence[nn.Parameter]) -> None:
        if self.world_size == 1 or (self.ddp and self._averaged):
            return
        self._averaged = True
        if self.ddp:  # which does not know the criterion's parameters, and those unfrozen since the pass began
            known = set(self.named.values())
            if others := [p for p in parameters if p.requires_grad and p not in known]:
                _average(others, ())
        if not self._in_backward:
            trained = [p for p in self.named.values() or parameters if p.requires_grad]
            ranks = _average(trained, buffers.running_statistics(self.norms))
            if self.complete is None:
                self.complete = bool(self.named) and all(n == world_size() for n in ranks)
            return
        without = [name for name, p in self.named.items() if p.grad is None]
        if without:
            raise Stopped(
                f"no gradient in this step, though there was one in the first: {', '.join(without[:5])}. Over several "
                f"processes this needs a trainer with `calls_parts = True` (see trainer/engine/base_trainer.py): "
                f"gradients are then averaged after the backward pass"
            )


def overlapped(model: nn.Module, device: torch.device) -> nn.Module:
    """Over several GPUs: a model whose backward pass averages the gradients while it computes them."""
    if world_size() == 1 or device.type not in OVERLAPPED or not any(p.requires_grad for p in model.parameters()):
        return model
    wrapped = DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)
    wrapped.broadcast_buffers = False  # it would do so in each forward pass, validation too; `Buffers` does once a step
    _wrapped.add(wrapped)
    return wrapped


def wrap_again(ddp: DistributedDataParallel) -> None:
    """Rebuild it in place for the parameters that are trained now."""
    del ddp.reducer, ddp.logger  # and with the reducer its hooks
    ddp.__init__(ddp.module, ddp.device_ids, init_sync=False)  # type: ignore[misc]
    ddp.broadcast_buffers = False


@torch.no_grad()
def _average(parameters: Sequence[nn.Parameter], statistics: Sequence[Tensor]) -> list[float]:
    """Average gradients and statistics over the ranks. Returns on how many ranks each parameter had a gradient.

    A parameter without any keeps none. Each tensor has the same place in each step: with three ranks and more, gloo's
    order of summation depends on it.
    """
    counts = torch.tensor(
        [float(world_size() * (p.grad is not None)) for p in parameters]
    )  # the mean of equal counts is that count
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    sparse = [gradient.is_sparse for gradient in gradients]
    gradients = [g.to_dense() if is_sparse else g for g, is_sparse in zip(gradients, sparse, strict=True)]
    buffers.average_tensors([*gradients, *statistics, counts])
    ranks = counts.tolist()
    for p, gradient, is_sparse, n in zip(parameters, gradients, sparse, ranks, strict=True):
        if is_sparse:
            p.grad = gradient.to_sparse(1)  # by rows, as embeddings give it
        elif p.grad is None and n:
            p.grad = gradient
    return ranks
