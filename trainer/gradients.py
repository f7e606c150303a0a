"""What several processes make one of: gradients, buffers, and the statistics of batch norm."""

import contextlib
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.parallel import DistributedDataParallel

from utils import distributed
from utils.distributed import world
from utils.errors import Stopped

# Where gradients travel while others are computed. On a CPU both need its cores, so all go together, which is faster
OVERLAPPED = {"cuda"}
_wrapped: "weakref.WeakSet[DistributedDataParallel]" = weakref.WeakSet()


def _free() -> None:
    """Left for later, torch 2.10 waits in them for gloo's thread, and that for the GIL."""
    for ddp in _wrapped:
        del ddp.reducer, ddp.logger
    _wrapped.clear()


distributed.before_leaving.append(_free)


def wrap(model: nn.Module, device: torch.device) -> nn.Module:
    """Over several GPUs: a model whose backward pass averages the gradients over them, while it computes them."""
    if world() == 1 or device.type not in OVERLAPPED or not any(p.requires_grad for p in model.parameters()):
        return model
    ids = [device.index] if device.type == "cuda" else None
    wrapped = DistributedDataParallel(model, device_ids=ids)
    _wrapped.add(wrapped)
    wrapped.broadcast_buffers = False  # in each forward pass, also in a validation's; `Buffers` does it once a step
    return wrapped


@torch.no_grad()
def start_alike(model: nn.Module) -> None:
    """Take rank 0's weights and buffers: a model may draw them from elsewhere than the seed."""
    _from_rank_0([t.detach() for t in (*model.parameters(), *model.buffers())])


class Gradients:
    """Makes the gradients of each rank's samples those of all ranks' samples: their mean over the ranks.

    In the backward pass, where the model is a DistributedDataParallel and in the first step every parameter had a
    gradient on every rank; else after it, which is right for any model, and takes the statistics of batch norm along.
    """

    def __init__(self, model: nn.Module, even: bool = True) -> None:
        """even: has every rank samples in every step?"""
        self.ranks = world()  # gradients are averaged over them
        self.ddp = model if isinstance(model, DistributedDataParallel) else None
        self.named = [(name, p) for name, p in model.named_parameters() if p.requires_grad] if self.ddp else []
        self.statistics = [] if self.ddp else _running(model)[0]
        if not self.ddp:  # which does it by itself
            start_alike(model)
        self.complete = None if even else False  # has every parameter a gradient on every rank? None: not known yet
        self._in_backward = False

    def backward(self, last: bool) -> contextlib.AbstractContextManager[None]:
        """For the forward and backward pass of one micro-batch, of which the `last` makes the step complete."""
        if self.ddp is None:
            return contextlib.nullcontext()
        self._in_backward = last and bool(self.complete)
        return contextlib.nullcontext() if self._in_backward else self.ddp.no_sync()

    def finish(self, parameters: Sequence[nn.Parameter]) -> None:
        """After the last micro-batch: `parameters` are those to be updated."""
        if world() == 1:
            return
        if not self._in_backward:
            ranks = _average([p for _, p in self.named] or parameters, self.statistics)
            if self.complete is None:
                self.complete = all(n == world() for n in ranks)
            return
        self._in_backward = False
        without = [name for name, p in self.named if p.grad is None]
        if without:
            raise Stopped(
                f"no gradient in this step, though there was one in the first: {', '.join(without[:5])}. Over several "
                f"processes this needs a trainer whose wrap() returns the model as it is (trainer/base_trainer.py): "
                f"gradients are then averaged after the backward pass"
            )


@torch.no_grad()
def _average(parameters: Sequence[nn.Parameter], statistics: Sequence[Tensor]) -> list[float]:
    """Average gradients and statistics over the ranks; on how many each parameter had one. Without any it keeps none.

    Each tensor has the same place in each step: with three ranks and more, gloo's order of summation depends on it.
    """
    counts = torch.tensor([float(world() * (p.grad is not None)) for p in parameters])  # their mean is their number
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    _all_reduce([*gradients, *statistics, counts])
    ranks = counts.tolist()
    for p, gradient, n in zip(parameters, gradients, ranks, strict=True):
        if p.grad is None and n:
            p.grad = gradient
    return ranks


def _all_reduce(tensors: Sequence[Tensor]) -> None:
    """The mean over the ranks, in place."""
    for flat, same in _packed(tensors):
        dist.all_reduce(flat.div_(world()))
        _unflatten(flat, same)


def _from_rank_0(tensors: Sequence[Tensor]) -> None:
    """What rank 0 has, in place."""
    for flat, same in _packed(tensors) if world() > 1 else ():
        dist.broadcast(flat.view(torch.uint8), src=0)  # as bytes: gloo does not know all types
        _unflatten(flat, same)


def _packed(tensors: Sequence[Tensor]) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """For each kind of tensor among these, one that holds them all, and which."""
    kinds = [(t.dtype, t.device) for t in tensors]
    for kind in dict.fromkeys(kinds):
        same = [t for t, k in zip(tensors, kinds, strict=True) if k == kind]
        yield torch.cat([t.flatten() for t in same]), same


def _unflatten(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    parts = flat.split([t.numel() for t in tensors])
    torch._foreach_copy_(list(tensors), [part.view(t.shape) for part, t in zip(parts, tensors, strict=True)])


class ExactGradients:
    """The same bits on any number of ranks: the gradient of each micro-batch goes to all ranks, which add them up in
    one order. Takes the memory of a gradient for each rank, and the time to send them all."""

    ranks = 1  # a micro-batch's share of the step is not to be averaged over ranks

    def __init__(self, model: nn.Module) -> None:
        start_alike(model)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.statistics, self.counts = _running(model)
        self._sum: Tensor | None = None
        self._start: list[Tensor] = []
        self._micro_batches = 0

    @contextlib.contextmanager
    def backward(self, last: bool) -> Iterator[None]:
        if self._sum is None:
            self._start = [t.clone() for t in self.statistics + self.counts]
        for t, start in zip(self.statistics + self.counts, self._start, strict=True):
            t.copy_(start)  # each micro-batch moves them from where the step began
        for p in self.parameters:
            p.grad = None
        yield
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        has = torch.tensor([float(p.grad is not None) for p in self.parameters], device=self.parameters[0].device)
        mine = torch.cat([t.flatten() for t in [*gradients, *self.statistics, has]])
        each = [torch.empty_like(mine) for _ in range(world())] if world() > 1 else [mine]
        if world() > 1:
            dist.all_gather(each, mine)
        for of_rank in each:
            self._sum = of_rank if self._sum is None else self._sum + of_rank
        self._micro_batches += world()

    @torch.no_grad()
    def finish(self, parameters: Sequence[nn.Parameter]) -> None:
        assert self._sum is not None
        total, has = self._sum.split([len(self._sum) - len(self.parameters), len(self.parameters)])
        for p, n in zip(self.parameters, has.tolist(), strict=True):
            p.grad = torch.zeros_like(p) if n else None
        places = [torch.empty_like(p) if p.grad is None else p.grad for p in self.parameters]
        _unflatten(total, places + self.statistics)
        for t in self.statistics:
            t /= self._micro_batches
        self._sum, self._micro_batches = None, 0


class Buffers:
    """Keeps what a checkpoint holds besides the weights the same on all ranks: the running statistics of batch norm
    are averaged, so that all samples count, of other buffers that are saved rank 0's are taken."""

    def __init__(self, model: nn.Module, done: Sequence[Tensor]) -> None:
        """done: those that travel with the gradients."""
        statistics, counts = _running(model)
        self.averaged = [] if done else statistics
        known = {id(t) for t in statistics + counts}  # each rank counts its batches alike
        saved = [t for t in model.state_dict(keep_vars=True).values() if isinstance(t, Tensor) and id(t) not in known]
        self.others = [t for t in saved if not isinstance(t, nn.Parameter)]

    @torch.no_grad()
    def sync(self) -> None:
        _all_reduce(self.averaged)
        _from_rank_0(self.others)


def _running(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """The running statistics of batch norm, and the numbers of batches in them."""
    norms = [module for module in model.modules() if isinstance(module, _NormBase) and module.track_running_stats]
    statistics = [t for m in norms for t in (m.running_mean, m.running_var) if t is not None]
    return statistics, [m.num_batches_tracked for m in norms if m.num_batches_tracked is not None]


class SyncBatchNorm(_BatchNorm):
    """Batch norm over the samples of all ranks. On GPUs torch has its own; this one is for the CPU."""

    def _check_input_dim(self, input: Tensor) -> None:
        assert input.dim() >= 2

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or world() == 1:
            return super().forward(input)
        dims, shape = [0, *range(2, input.dim())], [1, -1] + [1] * (input.dim() - 2)
        count = distributed.sum_over_ranks([input.numel() / input.shape[1]])[0]
        mean = _Sum.apply(input.sum(dims)) / count
        centred = input - mean.view(shape)
        var = _Sum.apply(centred.square().sum(dims)) / count
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            self.num_batches_tracked += 1
            share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
            self.running_mean.lerp_(mean.detach(), share)
            self.running_var.lerp_(var.detach() * (count / max(count - 1, 1)), share)
        output = centred * (var.view(shape) + self.eps).rsqrt()
        return output if self.weight is None else output * self.weight.view(shape) + self.bias.view(shape)


class _Sum(torch.autograd.Function):
    """Over all ranks; so is its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return gradient


def sync_batchnorm(model: nn.Module, device: torch.device) -> nn.Module:
    """The model, every batch norm in it over the samples of all ranks."""
    if world() == 1:
        return model
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.__class__ = SyncBatchNorm
    return model
