"""The interface of all strategies, and what they share."""

import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from trainer.engine.speed import kernels
from trainer.parallel import buffers
from utils.config.schema import TrainerConfig
from utils.process.group import world_size
from utils.tensors import unwrap

NOTHING = contextlib.nullcontext()
NEAR = 0.9999  # this close to the limit, torch's own rounding decides whether to clip


class Strategy:
    """Combines the gradients, buffers and evaluations of all ranks. One per trainer; class members come before it."""

    channels_last: ClassVar[bool] = True  # may weights be laid out in that memory format?
    fused_optimizers: ClassVar[frozenset[str] | None] = None  # which have a fused kernel for its weights; None: all
    kept_bytes: ClassVar[int] = 2**30  # the largest freed block of CPU memory that is kept for the next step
    saves_on_all_ranks = False
    norms: Sequence[_NormBase] = ()  # batch norms whose statistics travel with the gradients

    @classmethod
    def accumulate(cls, options: TrainerConfig) -> int:
        """Micro-batches per step of one rank."""
        return options.accumulate

    @classmethod
    def prepare(cls, model: nn.Module, options: TrainerConfig, roots: Sequence[str], device: torch.device) -> nn.Module:
        """The model with new weights, before optimizers see it. roots: submodules with an optimizer of their own."""
        return buffers.sync_batchnorm(model, device) if options.sync_batchnorm else model

    def __init__(
        self,
        model: nn.Module,
        options: TrainerConfig,
        device: torch.device,
        calls_parts: bool = False,
        more: Sequence[nn.Parameter] = (),
    ) -> None:
        """calls_parts: the trainer calls parts of the model on their own, not the model. more: the criterion's."""
        self.options, self.device, self.more = options, device, more
        self.world_size = world_size()
        self.ranks = self.world_size  # gradients are the mean over this many ranks
        self.model = model if calls_parts else self.wrap(model)
        self.connect()
        self._buffers = buffers.Buffers(unwrap(self.model), self.norms)

    def connect(self) -> None:
        """Start with the same weights and buffers on all ranks."""

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model as the training step calls it."""
        return model

    # -- the step -----------------------------------------------------------------------------------------------------

    def begin_pass(self) -> None:
        """Before the first micro-batch of a pass."""

    def micro_batch(self, last: bool) -> AbstractContextManager[None]:
        """Surrounds the forward and backward pass of one micro-batch. last: of the pass."""
        return NOTHING

    def translated_errors(self) -> AbstractContextManager[None]:
        """Surrounds the whole step: explains errors that only this strategy causes."""
        return NOTHING

    def another_backward(self) -> None:
        """A second backward pass in the same micro-batch."""

    def average(self, parameters: Sequence[nn.Parameter]) -> None:
        """After the last micro-batch: make the gradients of `parameters` the mean over all ranks."""

    def clip(self, parameters: Sequence[nn.Parameter], limit: float | None) -> Tensor | float:
        """Scale the gradients down to the norm `limit`. Returns the norm before: a float on the CPU, else a tensor [].

        The same on all ranks.
        """
        gradients = [p.grad for p in parameters if p.grad is not None]
        if any(gradient.is_sparse for gradient in gradients):
            return buffers.clip_sparse(gradients, limit)
        if self.device.type == "cpu":  # reading it is free on the CPU, and usually shows that nothing is to do
            norm = kernels.total_norm(gradients)
            if limit is not None and norm > limit * NEAR:
                nn.utils.clip_grad_norm_(parameters, limit)
            return norm
        total = nn.utils.get_total_norm(gradients)
        if limit is not None:
            nn.utils.clip_grads_with_norm_(parameters, limit, total)
        return total

    def sync_buffers(self) -> None:
        """After a step: the same buffers on all ranks."""
        if self.world_size > 1:
            self._buffers.sync()

    # -- evaluation ---------------------------------------------------------------------------------------------------

    def no_grad(self) -> AbstractContextManager[Any]:
        """Surrounds an evaluation."""
        return torch.inference_mode()

    def needs_all_ranks(self, smallest_batch: int) -> bool:
        """Must a rank without samples compute along in an evaluation?"""
        return False

    def after_evaluation(self) -> None:
        """After an evaluation, also one that failed."""

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def checkpoints(self, folder: Path, keep_last: int) -> Any:
        """Writes the checkpoints of this rank."""
        from trainer.checkpoint.writer import Checkpoints

        return Checkpoints(folder, keep_last)

    def sharded_model(self) -> nn.Module | None:
        """The model where its tensors are sharded, else None."""
        return None
