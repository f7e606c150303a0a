"""Train mode and eval mode of a model."""

import contextlib
from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from logger.console import log
from utils.tensors import unwrap

SHOWN = 5  # names in a message


class TrainMode:
    """Train mode for all of a model but the frozen parts that its constructor has put into eval mode.

    A model that arrives in eval mode as a whole, as those of Hugging Face do, trains in train mode.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        whole = unwrap(model)
        candidates = [m for m in whole.modules() if not m.training and any(True for _ in m.parameters())]
        self._kept = [m for m in candidates if _frozen(m)] if whole.training else []

    def start(self) -> None:
        """Train mode, saying where frozen weights do not mean a frozen layer."""
        self.train()
        norms = [(name, m) for name, m in unwrap(self.model).named_modules() if isinstance(m, _NormBase) and m.training]
        moving = [
            name for name, m in norms if m.track_running_stats and any(True for _ in m.parameters()) and _frozen(m)
        ]
        if moving:
            more = f" and {len(moving) - SHOWN} more" if len(moving) > SHOWN else ""
            log.warning(
                f"{', '.join(moving[:SHOWN])}{more}: batch norm with frozen weights still updates its running "
                f"statistics; call eval() on it in the model's constructor to keep them"
            )

    def train(self) -> None:
        self.model.train()
        for module in self._kept:
            if _frozen(module):  # a callback may have unfrozen it
                module.eval()

    @contextlib.contextmanager
    def eval(self) -> Iterator[None]:
        """Eval mode within this."""
        self.model.eval()
        try:
            yield
        finally:
            self.train()


def _frozen(module: nn.Module) -> bool:
    return not any(p.requires_grad for p in module.parameters())
