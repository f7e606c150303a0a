"""Backward, norms and optimizers in plain torch, and by the shortcuts of torch_internals.py where that file works."""

import contextlib
from collections.abc import Iterator, Sequence

from torch import Tensor, nn
from torch.optim import Optimizer


def backward(loss: Tensor) -> None:
    loss.backward()


def total_norm(tensors: Sequence[Tensor]) -> float:
    """The norm of all these tensors together. Waits for the device."""
    return nn.utils.get_total_norm(tensors).item()


def fast_optimizer(optimizer: type) -> type:
    """A class whose objects do what those of `optimizer` do, bit for bit, in less time."""
    return optimizer


@contextlib.contextmanager
def not_fused(optimizer: Optimizer) -> Iterator[None]:
    """Within this, the optimizer does not use fused kernels. Re-raises the current error if it uses none anyway."""
    fused = [group for group in optimizer.param_groups if group.get("fused")]
    if not fused:
        raise
    for options in fused:
        options["fused"] = False
    try:
        yield
    finally:
        for options in fused:
            options["fused"] = True


with contextlib.suppress(ImportError, AttributeError):
    from trainer.engine.speed.torch_internals import backward, fast_optimizer, total_norm  # type: ignore[assignment] # noqa: F401
