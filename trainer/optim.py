"""Your optimizers and learning-rate schedules. A config may also name those of torch.optim."""

import math
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class WarmupCosineLR(LRScheduler):
    """Linear warm-up to the optimizer's lr, then half a cosine down to `min_lr`, over `total_steps`.

    warmup: steps, or as a float below 1 a fraction of `total_steps`.
    Cosine: Loshchilov and Hutter, SGDR, 2017; warm-up: Goyal et al., Accurate, Large Minibatch SGD, 2017.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        warmup: int | float = 0.05,
        min_lr: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        self.total_steps, self.min_lr = total_steps, min_lr
        self.warmup_steps = int(total_steps * warmup) if isinstance(warmup, float) else warmup
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[Any]:
        step = self.last_epoch
        if step < self.warmup_steps:
            return [lr * (step + 1) / (self.warmup_steps + 1) for lr in self.base_lrs]
        done = min(1.0, (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps))
        return [self.min_lr + (lr - self.min_lr) * 0.5 * (1 + math.cos(math.pi * done)) for lr in self.base_lrs]

    def step(self, epoch: int | None = None) -> None:
        if self._step_count < 2 or epoch is not None or isinstance(self.base_lrs[0], Tensor):
            super().step(epoch)  # it checks the order of the first calls
            return
        self._step_count += 1
        self.last_epoch += 1
        self._last_lr = self.get_lr()
        for group, lr in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = lr

    _get_closed_form_lr = get_lr  # torch's name for it, where a schedule needs no history
