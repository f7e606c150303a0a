"""Freeze: keeps parameters as they are, to the end or until a step or epoch."""

from collections.abc import Sequence

from torch import nn

from logger.console import log
from trainer.engine.base_trainer import BaseTrainer
from trainer.engine.due import is_whole
from trainer.engine.train_mode import frozen, is_batch_norm, owned
from utils.errors import UsageError
from utils.patterns import select
from utils.tensors import count_parameters, unwrap


class Freeze:
    """Freezes the parameters whose names match, as in {freeze: ["*"], but_not: [classifier], until_epoch: 2}.

    freeze, but_not: patterns of parameter names, or classes of layers such as BatchNorm2d; `head` alone means all that
    is in it. until_epoch, until_step: how many epochs or steps it lasts; null: to the end. Batch norm that is frozen
    stays in eval mode. The optimizer has the parameters from the start, so that schedules and a resume stay exact; they
    have no gradient until they train.
    """

    def __init__(
        self,
        freeze: str | list[str],
        but_not: str | list[str] | None = None,
        until_epoch: int | None = None,
        until_step: int | None = None,
    ) -> None:
        both = until_epoch is not None and until_step is not None
        if both or min(until_epoch or 0, until_step or 0) < 0:
            raise UsageError(
                f"callbacks: Freeze: until_epoch is {until_epoch} and until_step {until_step}; give one of them, 0 or "
                f"more, or none"
            )
        self.freeze, self.but_not = freeze, but_not or []
        self.until_epoch, self.until_step = until_epoch, until_step
        self._held: set[nn.Parameter] = set()  # those that train again when it ends

    def before_training(self, trainer: BaseTrainer) -> None:
        if trainer.step >= self._until(trainer):
            return
        model = unwrap(trainer.model)
        if not model.training:  # as those of Hugging Face arrive: what is in eval mode below stays there
            model.train()
        named = dict(model.named_parameters(remove_duplicate=False))  # shared weights by all their names
        trained = {named[name] for name in select(_by_class(self.but_not, model), named, "callbacks: Freeze: but_not")}
        found = [named[name] for name in select(_by_class(self.freeze, model), named, "callbacks: Freeze: freeze")]
        held = [p for p in dict.fromkeys(found) if p not in trained]
        if self.freeze and not held:
            raise UsageError(
                f"callbacks: Freeze: freeze {self.freeze} with but_not {self.but_not} freezes nothing; give patterns "
                f"of parameter names, such as '*', or leave out the callback"
            )
        others = _held_by(trainer)
        self._held = {p for p in held if p.requires_grad or p in others}  # not what the model itself has frozen
        for p in held:
            p.requires_grad_(False)
        if frozen(model):
            raise UsageError(
                f"callbacks: Freeze: {self.freeze} freezes all parameters; leave out some by but_not: [...]"
            )
        for _, module, owner in owned(model):
            if is_batch_norm(module) and frozen(owner):
                module.eval()
        size, total = sum(p.numel() for p in held), count_parameters(model)
        until = {} if self._until(trainer) == float("inf") else {"epoch": self.until_epoch, "step": self.until_step}
        ends = [f" until the end of {unit} {n}" for unit, n in until.items() if n is not None]
        log.info(f"Freeze: {size:,} of {total:,} parameters are frozen{''.join(ends)}")
        if ends and is_whole(trainer) and self._until(trainer) >= trainer.max_steps:
            log.warning(f"Freeze: the run ends before: it has {trainer.max_steps} steps, so they are frozen to the end")

    def after_step(self, trainer: BaseTrainer) -> None:
        if not self._held or trainer.step < self._until(trainer):
            return
        mine, self._held = self._held, set()
        others = _held_by(trainer)
        for p in mine:
            p.requires_grad_(p not in others)
        trainer.train_mode()
        log.info(f"Freeze: {sum(p.numel() for p in mine):,} more parameters train from step {trainer.step} on")

    def _until(self, trainer: BaseTrainer) -> float:
        """The number of completed steps at which it ends."""
        if self.until_epoch is not None:
            return self.until_epoch * trainer.steps_per_epoch
        return float("inf") if self.until_step is None else self.until_step


def _held_by(trainer: BaseTrainer) -> set[nn.Parameter]:
    """What all of these callbacks hold."""
    return {p for callback in trainer.callbacks if isinstance(callback, Freeze) for p in callback._held}


def _by_class(patterns: str | Sequence[str], model: nn.Module) -> list[str]:
    """The patterns, with the names of all layers of a class in place of its name."""
    layers: dict[str, list[str]] = {}
    for name, module in model.named_modules():
        if name and any(True for _ in module.parameters()):
            layers.setdefault(type(module).__name__, []).append(name)
    patterns = [patterns] if isinstance(patterns, str) else patterns
    return [name for pattern in patterns for name in layers.get(pattern, [pattern])]
