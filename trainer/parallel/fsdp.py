"""`trainer.parallel: fsdp`: each rank holds a shard of every weight, gradient and optimizer state (torch's FSDP2).

A block of the model is gathered from all ranks while it computes; `trainer.shard` says which blocks.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.nn.modules.batchnorm import _NormBase

from logger.console import log
from trainer.engine.summary.model_table import class_name
from trainer.parallel import buffers
from trainer.parallel.base import Strategy
from utils.config.schema import TrainerConfig
from utils.errors import Stopped, UsageError
from utils.process.group import world_size
from utils.tensors import count_parameters, local

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
LARGE = 0.1  # a single layer with this fraction of all parameters is a block
SMALL = 0.001  # below this fraction, a message of its own is not worth it


def shard(model: nn.Module, options: TrainerConfig, names: Sequence[str], device: torch.device) -> nn.Module:
    """Shard the model over all processes, in place; on one process it stays whole.

    names: submodules with an optimizer of their own, which the trainer calls instead of the model.
    Raises UsageError where it cannot be sharded as the config says.
    """
    roots = [model.get_submodule(name) for name in names] or [model]
    if shared := [name for root in roots for name in _shared(model, root)]:
        raise UsageError(
            f"trainer.parallel: fsdp: optimizers whose parts of the model share weights: {', '.join(shared)}"
        )
    found = [blocks(root, options.shard) for root in roots]
    if world_size() == 1:
        log.info("trainer.parallel: fsdp: one process holds the whole model")
        return model
    for name, p in model.named_parameters():
        if p.dim() == 0:
            raise UsageError(
                f"trainer.parallel: fsdp cannot cut {name}, a single number; make it a tensor of shape [1]"
            )
    buffers.broadcast_model(model)
    mesh = init_device_mesh(device.type, (world_size(),))
    policy, bf16 = MixedPrecisionPolicy(), options.precision == "bf16"
    if bf16:  # autocast chooses the dtypes of the computation; this sends weights in 16 bits and sums gradients in 32
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    for root, parts in zip(roots, found, strict=True):
        norms = [m for m in root.modules() if isinstance(m, _NormBase)] if bf16 else []
        for norm in norms:  # its weights have the dtype of its running statistics, which stay in 32 bits
            fully_shard(norm, mesh=mesh)
        for part in [*(p for p in parts if p not in norms), root]:
            fully_shard(part, mesh=mesh, mp_policy=policy)
    log.info(f"fsdp over {world_size()} processes: {_described(model, [p for parts in found for p in parts])}")
    return model


def blocks(model: nn.Module, names: Sequence[str] | None) -> list[nn.Module]:
    """The modules that are gathered one at a time, inner ones first: those of these classes.

    By default the entries of lists and sequences of layers, and single layers with a tenth of all parameters; but not
    those that share a weight with another part of the model. What is in none is gathered with the model itself.
    """
    inner_first = list(model.modules())[:0:-1]
    if names is None:
        chosen = _by_size(model)
        return [m for m in inner_first if m in chosen and not _shared(model, m)]
    kinds = {type(m).__name__ for m in inner_first}
    if unknown := [name for name in names if name not in kinds]:
        raise UsageError(
            f"trainer.shard: {', '.join(unknown)}: no layer of the model is of that class; its layers are of: "
            f"{', '.join(sorted(kinds))}"
        )
    named = [m for m in inner_first if type(m).__name__ in names]
    for module in named:
        if isinstance(module, (nn.ModuleList, nn.ModuleDict)):
            raise UsageError(f"trainer.shard: {type(module).__name__} only holds layers; name their class instead")
        if shared := _shared(model, module):
            raise UsageError(
                f"trainer.shard: {type(module).__name__} shares a weight with another part of the model "
                f"({', '.join(shared)}), so it cannot be a block of its own; leave it out"
            )
    return named


def _by_size(model: nn.Module) -> set[nn.Module]:
    total, found = count_parameters(model), set()

    def visit(module: nn.Module, entry: bool) -> None:
        share, holds = count_parameters(module) / max(total, 1), isinstance(module, CONTAINERS)
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
    """The parameters of a block that the model uses outside of it, too."""
    everywhere = Counter(map(id, _parameters(model).values()))
    inside = Counter(map(id, _parameters(part).values()))
    return [name for name, p in _parameters(part).items() if everywhere[id(p)] > inside[id(p)]]


def _parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    return dict(module.named_parameters(remove_duplicate=False))


def _described(model: nn.Module, parts: Sequence[nn.Module]) -> str:
    """`12 x Block, 1 x Linear gathered one at a time; 2.1% of the parameters with the model itself`."""
    inside = {p for part in parts for p in part.parameters()}
    rest = sum(p.numel() for p in model.parameters() if p not in inside) / max(count_parameters(model), 1)
    kinds = Counter(class_name(part) for part in parts)
    text = ", ".join(f"{n} x {kind}" for kind, n in kinds.items()) or "no block"
    return f"{text} gathered one at a time; {rest:.1%} of the parameters with the model itself"


class FullySharded(Strategy):
    """FSDP averages the gradients over the ranks in the backward pass.

    It does so for each micro-batch, not only for the last: adding up whole gradients first would take the memory that
    sharding saves. On one process it holds the whole model, in no block.
    """

    channels_last = False  # weights are cut along their first dimension, as they lie in memory
    fused_optimizers = frozenset({"Adam", "AdamW"})
    kept_bytes = 2**18  # what is gathered has to be freed at once

    @classmethod
    def prepare(cls, model: nn.Module, options: TrainerConfig, roots: Sequence[str], device: torch.device) -> nn.Module:
        return shard(super().prepare(model, options, roots, device), options, roots, device)

    def connect(self) -> None:
        self.blocks = [module for module in self.model.modules() if isinstance(module, FSDPModule)]
        self.saves_on_all_ranks = bool(self.blocks)
        if self.blocks and any(p.requires_grad for p in self.more):
            raise UsageError(
                "trainer.parallel: fsdp does not shard parameters of the loss; make the loss a submodule of the model, "
                "or give trainer.parallel: ddp"
            )

    @contextlib.contextmanager
    def translated_errors(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as e:
            if "DTensor" not in str(e):
                raise
            raise Stopped(
                f"trainer.parallel: fsdp: a weight was used outside of its block, where only this rank's shard of it "
                f"is at hand ({str(e).splitlines()[0]}). Name the classes of the model's blocks, each of which is "
                f"called as a whole, as in trainer.shard=[Block], or trainer.shard=[] for none"
            ) from e

    def average(self, parameters: Sequence[nn.Parameter]) -> None:
        """All is done but for blocks that were also called without gradients."""
        self._reshard()

    def _reshard(self) -> None:
        """Free what is still gathered: it would not follow when weights change."""
        for block in self.blocks:
            block.reshard()

    @torch.no_grad()
    def clip(self, parameters: Sequence[nn.Parameter], limit: float | None) -> Tensor | float:
        if not self.blocks:
            return super().clip(parameters, limit)
        gradients = [local(p.grad) for p in parameters if p.grad is not None]
        square = torch.zeros((), dtype=torch.float64, device=gradients[0].device if gradients else "cpu")
        for norm in torch._foreach_norm(gradients) if gradients else ():
            square += norm.double() ** 2
        dist.all_reduce(square)
        total = square.sqrt()
        if limit is not None and gradients:
            torch._foreach_mul_(gradients, (limit / (total + 1e-6)).clamp(max=1.0).to(gradients[0].dtype))
        return total.item() if self.device.type == "cpu" else total

    def no_grad(self) -> contextlib.AbstractContextManager[Any]:
        """Weights that are first gathered in inference mode could not be trained."""
        return torch.no_grad() if self.blocks else super().no_grad()

    def needs_all_ranks(self, smallest_batch: int) -> bool:
        return bool(self.blocks) and smallest_batch < world_size()

    def after_evaluation(self) -> None:
        self._reshard()

    def checkpoints(self, folder: Path, keep_last: int) -> Any:
        if not self.blocks:
            return super().checkpoints(folder, keep_last)
        from trainer.checkpoint.shards import ShardedCheckpoints  # takes half a second to import

        return ShardedCheckpoints(folder, keep_last)

    def sharded_model(self) -> nn.Module | None:
        return self.model if self.blocks else None
