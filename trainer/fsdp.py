"""`trainer.parallel: fsdp`: each process holds a part of every weight, gradient and optimizer state (torch's FSDP2).

A block of the model is put together from all processes for as long as it computes; `trainer.shard` says which.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.nn.modules.batchnorm import _NormBase

from logger.logger import log
from trainer import gradients
from trainer.state import count
from utils import distributed
from utils.errors import Refused, Stopped
from utils.tensors import local

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
LARGE = 0.1  # share of all parameters from which on a single layer is a block
SMALL = 0.001  # share below which a message of its own is not worth while


def shard(model: nn.Module, config: Any, device: torch.device) -> nn.Module:
    """The model in parts over all processes, in place, on their devices; on one process as it is.

    Where there are several optimizers, the submodule of each: their trainer calls these, not the model.
    Raises Refused where it cannot be cut as the config says.
    """
    options, several = config.run.trainer, config.run.optimizer
    if options.sync_batchnorm:
        model = gradients.sync_batchnorm(model, device)
    roots = [model.get_submodule(name) for name in several] if isinstance(several, dict) else [model]
    if shared := [name for root in roots for name in _shared(model, root)]:
        raise Refused(f"trainer.parallel: fsdp: optimizers whose parts of the model share weights: {', '.join(shared)}")
    found = [blocks(root, options.shard) for root in roots]
    if distributed.world() == 1:
        log.info("trainer.parallel: fsdp: one process holds the whole model")
        return model
    for name, p in model.named_parameters():
        if p.dim() == 0:
            raise Refused(f"trainer.parallel: fsdp cannot cut {name}, a single number; make it a tensor of shape [1]")
    gradients.start_alike(model)
    mesh = init_device_mesh(device.type, (distributed.world(),))
    policy, bf16 = MixedPrecisionPolicy(), options.precision == "bf16"
    if bf16:  # autocast chooses what is computed in which; this has weights sent in 16 bits, gradients summed in 32
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    for root, parts in zip(roots, found, strict=True):
        norms = [m for m in root.modules() if isinstance(m, _NormBase)] if bf16 else []
        for norm in norms:  # its weights are of one kind with its running statistics, which stay in 32 bits
            fully_shard(norm, mesh=mesh)
        for part in [*(p for p in parts if p not in norms), root]:
            fully_shard(part, mesh=mesh, mp_policy=policy)
    log.info(f"fsdp over {distributed.world()} processes: {_said(model, [p for parts in found for p in parts])}")
    return model


def blocks(model: nn.Module, names: Sequence[str] | None) -> list[nn.Module]:
    """The modules that are put together one at a time, inner ones first: those of these classes.

    By default the entries of lists and sequences of layers, and single layers with a tenth of all parameters; but not
    those that share a weight with another part of the model. What is in none is put together with the model itself.
    """
    inner_first = list(model.modules())[:0:-1]
    if names is None:
        chosen = _by_size(model)
        return [m for m in inner_first if m in chosen and not _shared(model, m)]
    kinds = {type(m).__name__ for m in inner_first}
    if unknown := [name for name in names if name not in kinds]:
        raise Refused(
            f"trainer.shard: {', '.join(unknown)}: no layer of the model is of that class; its layers are of: "
            f"{', '.join(sorted(kinds))}"
        )
    named = [m for m in inner_first if type(m).__name__ in names]
    for module in named:
        if isinstance(module, (nn.ModuleList, nn.ModuleDict)):
            raise Refused(f"trainer.shard: {type(module).__name__} only holds layers; name their class instead")
        if shared := _shared(model, module):
            raise Refused(
                f"trainer.shard: {type(module).__name__} shares a weight with another part of the model "
                f"({', '.join(shared)}), so it cannot be a block of its own; leave it out"
            )
    return named


def _by_size(model: nn.Module) -> set[nn.Module]:
    total, found = count(model), set()

    def visit(module: nn.Module, entry: bool) -> None:
        share, holds = count(module) / max(total, 1), isinstance(module, CONTAINERS)
        # Only these two kinds: other modules may use a layer's weights without calling it, as nn.MultiheadAttention
        alone = type(module) in (nn.Linear, nn.Embedding) and share > LARGE
        if (entry and not holds and share > SMALL) or alone:
            found.add(module)
        elif share > SMALL:
            for child in module.children():
                visit(child, holds)

    for child in model.children():
        visit(child, isinstance(model, CONTAINERS))
    return found


def _shared(model: nn.Module, part: nn.Module) -> list[str]:
    """The parameters of a part that the model uses outside of it too."""
    everywhere = Counter(map(id, _parameters(model).values()))
    inside = Counter(map(id, _parameters(part).values()))
    return [name for name, p in _parameters(part).items() if everywhere[id(p)] > inside[id(p)]]


def _parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    return dict(module.named_parameters(remove_duplicate=False))


def _said(model: nn.Module, parts: Sequence[nn.Module]) -> str:
    """`12 x Block, 1 x Linear put together one at a time; with the model itself 2.1% of the parameters`."""
    inside = {p for part in parts for p in part.parameters()}
    rest = sum(p.numel() for p in model.parameters() if p not in inside) / max(count(model), 1)
    kinds = Counter(type(part).__name__.removeprefix("FSDP") for part in parts)
    told = ", ".join(f"{n} x {kind}" for kind, n in kinds.items()) or "no block"
    return f"{told} put together one at a time; with the model itself {rest:.1%} of the parameters"


class ShardedGradients:
    """The gradients of a sharded model: FSDP averages them over the ranks in the backward pass.

    It does so for each micro-batch, not only for the last: to add up whole gradients first would take the memory that
    sharding is to save.
    """

    statistics: Sequence[Tensor] = ()  # none travel with the gradients

    def __init__(self, model: nn.Module) -> None:
        self.ranks = distributed.world()
        self.blocks = [module for module in model.modules() if isinstance(module, FSDPModule)]

    @contextlib.contextmanager
    def backward(self, last: bool) -> Iterator[None]:
        try:
            yield
        except RuntimeError as e:
            if "DTensor" not in str(e):
                raise
            raise Stopped(
                f"trainer.parallel: fsdp: a weight was used outside of its block, where only a part of it is at hand "
                f"({str(e).splitlines()[0]}). Name the classes of the model's blocks, each of which is called as a "
                f"whole, as in trainer.shard=[Block], or trainer.shard=[] for none"
            ) from e

    def finish(self, parameters: Sequence[nn.Parameter]) -> None:
        """All is done but for blocks that were also called without gradients."""
        self.reshard()

    def reshard(self) -> None:
        """Take apart what is still put together: where weights change, that would not."""
        for block in self.blocks:
            block.reshard()

    @torch.no_grad()
    def clip(self, parameters: Sequence[nn.Parameter], limit: float | None) -> Tensor:
        """Scale the gradients down to the norm `limit` over all ranks; their norm before: []."""
        gradients = [local(p.grad) for p in parameters if p.grad is not None]
        square = torch.zeros((), dtype=torch.float64, device=gradients[0].device if gradients else "cpu")
        for norm in torch._foreach_norm(gradients) if gradients else ():
            square += norm.double() ** 2
        dist.all_reduce(square)
        total = square.sqrt()
        if limit is not None and gradients:
            torch._foreach_mul_(gradients, (limit / (total + 1e-6)).clamp(max=1.0).to(gradients[0].dtype))
        return total
