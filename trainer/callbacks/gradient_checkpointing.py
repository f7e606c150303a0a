"""GradientCheckpointing: less memory for activations, which the backward pass computes again."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from trainer.engine.base_trainer import BaseTrainer
from trainer.engine.summary.model_table import class_name
from utils.errors import UsageError
from utils.tensors import unwrap


class GradientCheckpointing:
    """Keeps only the inputs of the model's blocks of these classes (Chen et al., 2016, arXiv:1604.06174).

    The backward pass runs a block again, with the same draws of torch, so that the result has the same bits. It costs
    about a third more time. classes: names of classes such as Block or SwinTransformerBlock.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = list(classes)
        self._wrapped = set[nn.Module]()

    def before_training(self, trainer: BaseTrainer) -> None:
        model = unwrap(trainer.model)
        blocks = [(class_name(m), m) for m in model.modules() if m is not model]
        known = sorted({name for name, _ in blocks})
        if not self.classes or any(name not in known for name in self.classes):
            raise UsageError(
                f"callbacks: GradientCheckpointing: classes is {self.classes}; give classes of the model's modules: "
                f"{', '.join(known)}"
            )
        for name, module in blocks:
            if name in self.classes and module not in self._wrapped:
                if trainer.options.compile and next(module.buffers(), None) is not None:
                    raise UsageError(
                        f"callbacks: GradientCheckpointing: {name} has buffers, such as those of batch norm, which "
                        f"torch.compile cannot keep from changing twice; set trainer.compile=false"
                    )
                self._wrapped.add(module)
                module.forward = _checkpointed(module, module.forward)  # type: ignore[method-assign]


def _checkpointed(module: nn.Module, forward: Any) -> Any:
    options: dict[str, Any] = {"use_reentrant": False}
    if next(module.buffers(), None) is not None:
        options["context_fn"] = lambda: _contexts(module)

    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, **options, **kwargs)

    return run


def _contexts(module: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Of the first run, and of the one in the backward pass."""
    return nullcontext(), _other_buffers(module)


@contextmanager
def _other_buffers(module: nn.Module) -> Iterator[None]:
    """Within this, the buffers are copies: batch norm's statistics must not move a second time."""
    places = [(m._buffers, name, b) for m in module.modules() for name, b in m._buffers.items() if b is not None]
    for buffers, name, buffer in places:
        buffers[name] = buffer.clone()
    try:
        yield
    finally:
        for buffers, name, buffer in places:
            buffers[name] = buffer
