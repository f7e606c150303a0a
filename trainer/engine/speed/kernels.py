"""Plain torch for each shortcut of torch_internals.py: used where that file is deleted, or torch has changed."""

import contextlib
from collections.abc import Sequence

from torch import Tensor, nn


def backward(loss: Tensor) -> None:
    loss.backward()


def total_norm(tensors: Sequence[Tensor]) -> float:
    """The norm of all these tensors together. Waits for the device."""
    return nn.utils.get_total_norm(tensors).item()


def fast_optimizer(optimizer: type) -> type:
    """A class whose objects do what those of `optimizer` do, bit for bit, in less time."""
    return optimizer


with contextlib.suppress(ImportError, AttributeError):
    from trainer.engine.speed.torch_internals import backward, fast_optimizer, total_norm  # type: ignore[assignment] # noqa: F401
