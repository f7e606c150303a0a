"""The processes of a run: which one this is, sums over all of them, and gradients that are those of all."""

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parallel import DistributedDataParallel

from utils import launch
from utils.errors import Stopped
from utils.watchdog import beat, together, watching

__all__ = ["beat", "together"]
T = TypeVar("T")


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    return rank() == 0


def is_first_here() -> bool:
    """Is this the process of its machine that does what only one should, as a download?"""
    return os.environ.get("LOCAL_RANK", "0") == "0"


@contextlib.contextmanager
def joined(timeout: float, tell: Callable[[str], None]) -> Iterator[None]:
    """Be one of the processes that a launcher has started, if one has: it sets RANK, WORLD_SIZE, MASTER_ADDR, ...

    Within this, an error in one rank ends them all; so does one that keeps the others waiting for `timeout` seconds.
    `tell` is given what happened, on rank 0 if that still can.
    """
    if not launch.joined():
        yield
        return
    # Tensors on the GPU go over NCCL; numbers for the host, as a vote on stopping, over gloo: no wait for the GPU
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    wait = timedelta(seconds=2 * timeout + 60)  # the watchdog is to be first
    dist.init_process_group(backend, timeout=wait, **_fresh_store(wait))
    try:
        with watching(timeout, from_main(uuid.uuid4().hex), tell):
            yield
    finally:  # of a run that ended, or was interrupted on all ranks: any other error has ended this process
        wait_for_all()  # rank 0 may hold the store that the others talk to
        dist.destroy_process_group()


def _fresh_store(wait: timedelta) -> dict[str, Any]:
    """Where torchrun lends its store: a part of it that no earlier attempt has used. There torch would find the
    addresses of ranks that died, and dial them until it gives up."""
    env = os.environ
    if env.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return {}
    store = dist.TCPStore(env["MASTER_ADDR"], int(env["MASTER_PORT"]), is_master=False, timeout=wait)
    attempt = f"{env['TORCHELASTIC_RUN_ID']}/{env['TORCHELASTIC_RESTART_COUNT']}"
    return {"store": dist.PrefixStore(attempt, store), "rank": int(env["RANK"]), "world_size": int(env["WORLD_SIZE"])}


def wait_for_all() -> None:
    sum_over_ranks([0.0])


def sum_over_ranks(values: Sequence[float]) -> list[float]:
    """Each number, summed over all ranks; one reduction for all of them."""
    if world() == 1:
        return list(values)
    tensor = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(tensor)
    return tensor.tolist()


def any_rank(flag: bool) -> bool:
    """Is it true on any rank? All must ask."""
    return sum_over_ranks([float(flag)])[0] > 0


def gather(value: T) -> list[T]:
    """The value of each rank, in their order; plain types only."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    dist.all_gather_object(values, value)
    return values


def from_main(value: T) -> T:
    """Rank 0's value, on every rank."""
    if world() == 1:
        return value
    box: list[Any] = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


class Vote:
    """The largest number that any rank gave, told at the next call: so the reduction runs beside a step."""

    def __init__(self) -> None:
        self._pending: tuple[Any, Tensor] | None = None

    def __call__(self, number: int) -> int:
        if world() == 1:
            return number
        result = self.close()
        tensor = torch.tensor([number])
        self._pending = dist.all_reduce(tensor, dist.ReduceOp.MAX, async_op=True), tensor
        return result

    def close(self) -> int:
        """The result of the last call."""
        if self._pending is None:
            return 0
        work, tensor = self._pending
        self._pending = None
        work.wait()
        return int(tensor)


# -- gradients --------------------------------------------------------------------------------------------------------


def wrap(model: nn.Module, device: torch.device) -> nn.Module:
    """Over several ranks: a model whose backward pass averages the gradients over them, while it computes them."""
    if world() == 1 or not any(p.requires_grad for p in model.parameters()):
        return model
    ids = [device.index] if device.type == "cuda" else None
    wrapped = DistributedDataParallel(model, device_ids=ids)
    wrapped.broadcast_buffers = False  # in each forward pass, also in a validation's; `Buffers` does it once a step
    return wrapped


class Gradients:
    """Makes the gradients of each rank's samples those of all ranks' samples: their mean over the ranks.

    In the backward pass, where the model is a DistributedDataParallel and in the first step every parameter had a
    gradient on every rank; else after it, which takes longer and is right for any model.
    """

    def __init__(self, model: nn.Module, even: bool = True) -> None:
        """even: has every rank samples in every step?"""
        self.ddp = model if isinstance(model, DistributedDataParallel) else None
        self.named = [(name, p) for name, p in model.named_parameters() if p.requires_grad] if self.ddp else []
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
            ranks = _average([p for _, p in self.named] or parameters)
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


def _average(parameters: Sequence[nn.Parameter]) -> list[float]:
    """Average the gradients over the ranks; on how many ranks each parameter had one. Without any it keeps none."""
    ranks = sum_over_ranks([float(p.grad is not None) for p in parameters])
    used = [p for p, n in zip(parameters, ranks, strict=True) if n]
    for p in used:
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
    _all_reduce([p.grad for p in used if p.grad is not None])
    return ranks


def _all_reduce(tensors: Sequence[Tensor]) -> None:
    """The mean over the ranks, in place; one reduction for each dtype."""
    for dtype in dict.fromkeys(t.dtype for t in tensors):
        same = [t for t in tensors if t.dtype == dtype]
        flat = torch.cat([t.flatten() for t in same]).div_(world())
        dist.all_reduce(flat)
        _unflatten(flat, same)


def _unflatten(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    parts = flat.split([t.numel() for t in tensors])
    torch._foreach_copy_(list(tensors), [part.view(t.shape) for part, t in zip(parts, tensors, strict=True)])


class Buffers:
    """Keeps what a checkpoint holds besides the weights the same on all ranks: the running statistics of batch norm
    are averaged, so that all samples count, of other buffers that are saved rank 0's are taken."""

    def __init__(self, model: nn.Module) -> None:
        norms = [module for module in model.modules() if isinstance(module, _NormBase) and module.track_running_stats]
        self.averaged = [t for m in norms for t in (m.running_mean, m.running_var) if t is not None]
        known = {id(t) for m in norms for t in m.buffers(recurse=False)}  # each rank counts its batches alike
        saved = model.state_dict(keep_vars=True).values()
        self.others = [t for t in saved if not isinstance(t, nn.Parameter) and isinstance(t, Tensor)]
        self.others = [t for t in self.others if id(t) not in known]

    @torch.no_grad()
    def sync(self) -> None:
        if world() == 1:
            return
        _all_reduce(self.averaged)
        for dtype in dict.fromkeys(t.dtype for t in self.others):
            same = [t for t in self.others if t.dtype == dtype]
            flat = torch.cat([t.flatten() for t in same])
            dist.broadcast(flat, src=0)
            _unflatten(flat, same)
