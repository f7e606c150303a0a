"""Warns once of parameters that are not trained, and stops a run whose updates are all skipped."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.optim import Optimizer

from logger.console import log
from utils.errors import Stopped

PATIENCE = 20  # skipped updates in a row; finding the scale takes up to 16
SHOWN = 5  # names in a message


class Untrained:
    """Names parameters that no optimizer updates, and those that have had no gradient in the first epoch."""

    def __init__(self, named: Sequence[tuple[str, nn.Parameter]], optimizers: Sequence[Optimizer]) -> None:
        held = {p for o in optimizers for group in o.param_groups for p in group["params"]}
        self._warn("no optimizer updates", [name for name, p in named if p.requires_grad and p not in held])
        self._named = [(name, p) for name, p in named if p.requires_grad and p in held]
        self._said = False
        self._waiting: list[tuple[str, nn.Parameter]] | None = None  # without a gradient so far; None: not checked

    def after_step(self, end_of_epoch: bool, updates: int) -> None:
        """updates: the calls of `update` so far."""
        if end_of_epoch and not updates and self._named and not self._said:
            log.warning("train_step did not call self.update(self.optimizer) in this epoch; that is what trains")
            self._said = True
        if self._waiting is None:
            self._waiting = [(name, p) for name, p in self._named if p.grad is None]
        elif self._waiting:
            self._waiting = [(name, p) for name, p in self._waiting if p.grad is None]
        if end_of_epoch and self._waiting:
            self._warn("had no gradient in this epoch:", [name for name, p in self._waiting if p.requires_grad])
            self._waiting = []

    @staticmethod
    def _warn(what: str, names: Sequence[str]) -> None:
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            log.warning(f"{len(names)} parameters are not trained: {what} {', '.join(names[:SHOWN])}{more}")


class SkippedUpdates:
    """Raises Stopped where the gradient scaler of fp16 skips every update: the run would end untrained."""

    def __init__(self, scaler: torch.amp.GradScaler) -> None:
        self.scaler = scaler
        self.updates = self._in_a_row = self._seen = 0
        self._scale = 0.0

    def check(self, at_end: bool) -> None:
        """At a log point: waits for the device."""
        if not self.scaler.is_enabled():
            return
        scale, new = self.scaler.get_scale(), self.updates - self._seen
        all_skipped = new > 0 and self._scale > 0 and scale == self._scale * self.scaler.get_backoff_factor() ** new
        self._in_a_row = self._in_a_row + new if all_skipped else 0
        self._scale, self._seen = scale, self.updates
        if self._in_a_row >= PATIENCE or (at_end and self._in_a_row and self._in_a_row == self.updates):
            raise Stopped(
                f"precision: fp16: the last {self._in_a_row} updates were all skipped, since a gradient was not finite "
                f"at any scale (now {scale:.3g}); nothing was trained. Find the cause with precision: fp32, or use bf16"
            )

    def start(self) -> None:
        self._scale = self.scaler.get_scale() if self.scaler.is_enabled() else 0.0
