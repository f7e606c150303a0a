"""Collectives over many tensors at once, and what a model holds besides its weights: buffers, batch norm statistics."""

from collections.abc import Iterator, Sequence
from typing import TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from utils.errors import UsageError
from utils.process.group import world_size


@torch.no_grad()
def broadcast_model(model: nn.Module) -> None:
    """Rank 0's weights and buffers on all ranks: a model may draw them from elsewhere than the seed."""
    broadcast_tensors([t.detach() for t in (*model.parameters(), *model.buffers())])


def average_tensors(tensors: Sequence[Tensor]) -> None:
    """The mean over the ranks, in place; one collective per dtype and device."""
    for flat, same in _packed(tensors):
        dist.all_reduce(flat.div_(world_size()))
        unpack(flat, same)


def broadcast_tensors(tensors: Sequence[Tensor]) -> None:
    """Rank 0's values, in place."""
    for flat, same in _packed(tensors) if world_size() > 1 else ():
        dist.broadcast(flat.view(torch.uint8), src=0)  # as bytes: gloo does not support all dtypes
        unpack(flat, same)


def _packed(tensors: Sequence[Tensor]) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """For each dtype and device: one flat tensor, and the tensors in it."""
    kinds = [(t.dtype, t.device) for t in tensors]
    for kind in dict.fromkeys(kinds):
        same = [t for t, k in zip(tensors, kinds, strict=True) if k == kind]
        yield torch.cat([t.flatten() for t in same]), same


def clip_sparse(gradients: Sequence[Tensor], limit: float | None) -> float:
    """Scale gradients of which some are sparse down to the norm `limit`; their norm before."""
    values = [g.coalesce().values() if g.is_sparse else g for g in gradients]
    norm = torch.stack([v.norm() for v in values]).norm().item()
    if limit is not None and norm > limit:
        for gradient in gradients:
            gradient.mul_(limit / (norm + 1e-6))
    return norm


def unpack(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    """Copy the parts of a flat tensor into these tensors."""
    parts = flat.split([t.numel() for t in tensors])
    torch._foreach_copy_(list(tensors), [part.view(t.shape) for part, t in zip(parts, tensors, strict=True)])


def batch_norms(model: nn.Module) -> list[_NormBase]:
    """The batch norms that keep running statistics."""
    return [module for module in model.modules() if is_batch_norm(module)]


def is_batch_norm(module: nn.Module) -> TypeGuard[_NormBase]:
    """Does it keep running statistics?"""
    return isinstance(module, _NormBase) and module.track_running_stats


def running_statistics(norms: Sequence[_NormBase]) -> list[Tensor]:
    """The running statistics of those in train mode: a mean over three ranks would round those of frozen ones."""
    return [t for m in norms if m.training for t in (m.running_mean, m.running_var) if t is not None]


def batch_counts(norms: Sequence[_NormBase]) -> list[Tensor]:
    """The numbers of batches in the running statistics."""
    return [m.num_batches_tracked for m in norms if m.num_batches_tracked is not None]


class Buffers:
    """Keeps all saved buffers the same on all ranks.

    Running statistics of batch norm are averaged, so that all samples count. Of other buffers, rank 0's are used.
    """

    def __init__(self, model: nn.Module, done: Sequence[_NormBase]) -> None:
        """done: batch norms whose statistics already travel with the gradients."""
        norms = batch_norms(model)
        self.averaged = [] if done else norms
        known = {id(t) for m in norms for t in m.buffers(recurse=False)}  # each rank counts its batches alike
        saved = [t for t in model.state_dict(keep_vars=True).values() if isinstance(t, Tensor) and id(t) not in known]
        self.others = [t for t in saved if not isinstance(t, nn.Parameter)]

    @torch.no_grad()
    def sync(self) -> None:
        average_tensors(running_statistics(self.averaged))
        broadcast_tensors(self.others)


def sync_batchnorm(model: nn.Module, device: torch.device) -> nn.Module:
    """The model, every batch norm in it over the samples of all ranks."""
    if world_size() == 1:
        return model
    if device.type != "cuda":
        raise UsageError(
            f"trainer.sync_batchnorm: true was given, but torch synchronizes batch norm on CUDA GPUs only, not on "
            f"{device.type}; leave it out, or use trainer.exact_ranks: true for the same bits on any number of ranks"
        )
    return nn.SyncBatchNorm.convert_sync_batchnorm(model)
