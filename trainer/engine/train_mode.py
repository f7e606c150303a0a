"""Train mode and eval mode of a model."""

import contextlib
from collections.abc import Iterator

from torch import nn

from logger.console import log
from trainer.parallel.buffers import is_batch_norm as is_batch_norm
from utils.tensors import unwrap

SHOWN = 5  # names in a message


class TrainMode:
    """Train mode for all of a model but the frozen parts that its constructor, or Freeze, has put into eval mode.

    A model that arrives in eval mode as a whole, as those of Hugging Face do, trains in train mode.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._kept: list[tuple[nn.Module, nn.Module]] = []  # in eval mode, while the second is frozen

    def start(self) -> None:
        """Train mode; warns about layers whose weights are frozen but whose statistics still change."""
        whole = unwrap(self.model)
        owners = owned(whole)
        self._kept = (
            [(m, owner) for _, m, owner in owners if not m.training and frozen(owner)] if whole.training else []
        )
        self.train()
        moving = [name for name, m, owner in owners if is_batch_norm(m) and m.training and m is owner and frozen(m)]
        if moving:
            more = f" and {len(moving) - SHOWN} more" if len(moving) > SHOWN else ""
            log.warning(
                f"{', '.join(moving[:SHOWN])}{more}: batch norm with frozen weights still updates its running "
                f"statistics; to keep them freeze by the callback Freeze, or call eval() on it in the model's "
                f"constructor"
            )

    def train(self) -> None:
        self.model.train()
        for module, owner in self._kept:
            if frozen(owner):  # a callback may have unfrozen it
                module.eval()

    @contextlib.contextmanager
    def eval(self) -> Iterator[None]:
        """Eval mode within this."""
        self.model.eval()
        try:
            yield
        finally:
            self.train()


def frozen(module: nn.Module) -> bool:
    return not any(p.requires_grad for p in module.parameters())


def owned(model: nn.Module) -> list[tuple[str, nn.Module, nn.Module]]:
    """(name, module, the innermost module around it that has parameters) of all modules but those without any."""
    found: dict[str, tuple[str, nn.Module, nn.Module]] = {}
    for name, module in model.named_modules():
        has_own = any(True for _ in module.parameters())
        parent = found.get(name.rpartition(".")[0])
        if has_own or parent:
            found[name] = name, module, module if has_own or not parent else parent[2]
    return list(found.values())
