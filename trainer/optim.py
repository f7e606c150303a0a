"""Optimizers and schedules: those of `torch.optim`, and below them what you write or import here."""

import inspect
import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from trainer import eager
from trainer.adam import Adam as Adam
from trainer.adam import AdamW as AdamW
from utils.errors import Refused


class WarmupCosineLR(LRScheduler):
    """Linear warm-up to the optimizer's lr, then half a cosine down to `min_lr`, over `total_steps`.

    warmup: steps, or as a float below 1 the fraction of `total_steps`.
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
            super().step(epoch)  # which checks the order of the first calls
            return
        self._step_count += 1
        self.last_epoch += 1
        self._last_lr = self.get_lr()
        for group, lr in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = lr

    _get_closed_form_lr = get_lr  # torch's name for it, where a schedule needs no history


def build_optimizer(config: Any, model: nn.Module) -> Any:
    """The optimizer of the config; where it names several, {submodule: optimizer}, each for that part of the model."""
    spec = config.run.optimizer
    if isinstance(spec, Mapping):
        return {name: _build_optimizer(config, part, model.get_submodule(name)) for name, part in spec.items()}
    return _build_optimizer(config, spec, model)


def _build_optimizer(config: Any, part: Any, model: nn.Module) -> Any:
    """`fused: true` where the optimizer has it and the config does not choose: less than half the time per step."""
    named = config.resolve("optimizer", part)
    if isinstance(named, type):  # or a function
        eager.spare(named)
    chosen = {"fused", "foreach", "differentiable", "capturable"} & part.args.keys()
    # Of sharded weights torch has no other kernels; Adagrad's, in torch 2.10, is for the CPU only
    lacking = part.type == "Adagrad" or (config.run.trainer.parallel == "fsdp" and part.type not in ("Adam", "AdamW"))
    fused = "fused" in inspect.signature(named).parameters and not chosen and not lacking
    trainable = [p for p in model.parameters() if p.requires_grad]
    return config.build_part("optimizer", part, trainable, **({"fused": True} if fused else {}))


def build_lr_scheduler(config: Any, optimizer: Any, steps_per_epoch: int) -> Any:
    """The schedule of the config (None, one, or one per optimizer), its length filled in where it wants to know it."""
    spec = config.run.lr_scheduler
    if isinstance(spec, Mapping):
        return {name: _build_schedule(config, part, optimizer[name], steps_per_epoch) for name, part in spec.items()}
    return None if spec is None else _build_schedule(config, spec, optimizer, steps_per_epoch)


def _build_schedule(config: Any, part: Any, optimizer: Optimizer, steps_per_epoch: int) -> "Schedule":
    options = config.run.trainer
    steps = total_steps(options, steps_per_epoch)
    named = config.resolve("lr_scheduler", part)
    parameters = inspect.signature(named).parameters
    per_step = part.interval == "step" if part.interval else "total_steps" in parameters
    length = steps if per_step else -(-steps // steps_per_epoch)
    given = {
        name: length
        for name in ("total_steps", "T_max")
        if name in parameters and name not in part.args and parameters[name].default in (inspect.Parameter.empty, None)
    }
    if "total_steps" in given and {"epochs", "steps_per_epoch"} <= part.args.keys():
        given = {}  # OneCycleLR takes its length as these two as well
    if _follows_a_value(named):
        if options.monitor == "off":
            raise Refused(f"lr_scheduler: {part.type} follows trainer.monitor, which is off; give one, as min val_loss")
        given |= {} if "mode" in part.args else {"mode": options.monitor.split()[0]}
    return Schedule(config.build_part("lr_scheduler", part, optimizer, **given), per_step)


def total_steps(options: Any, steps_per_epoch: int) -> int:
    """Optimizer steps of the whole run: `epochs` or `max_steps`, whichever ends first."""
    lengths = [options.epochs and options.epochs * steps_per_epoch, options.max_steps]
    return min(n for n in lengths if n)


class Schedule:
    """A scheduler and when it steps: after each optimizer step, or after each epoch."""

    def __init__(self, scheduler: Any, per_step: bool) -> None:
        self.scheduler, self.per_step = scheduler, per_step
        self.on_value = _follows_a_value(scheduler)

    def after_step(self, end_of_epoch: bool) -> None:
        if not self.on_value and (self.per_step or end_of_epoch):
            self.scheduler.step()

    def after_validation(self, value: float | None) -> None:
        if self.on_value and value is not None:
            self.scheduler.step(value)

    def rebase(self, lr: float) -> None:
        """Go on as if the optimizer had been given this learning rate."""
        if hasattr(self.scheduler, "base_lrs"):
            self.scheduler.base_lrs = [lr for _ in self.scheduler.base_lrs]
            self._set_lr()

    def state_dict(self) -> dict[str, Any]:
        return self.scheduler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the progress; the shape of the schedule stays as the config of today gives it."""
        progress = {"last_epoch", "_step_count", "_last_lr", "best", "num_bad_epochs", "cooldown_counter", "base_lrs"}
        shape = {k: v for k, v in vars(self.scheduler).items() if k not in progress}
        self.scheduler.load_state_dict(dict(state))
        vars(self.scheduler).update(shape)
        if any(k in state and state[k] != v for k, v in shape.items() if isinstance(v, (int, float, str, list, tuple))):
            self._set_lr()

    def _set_lr(self) -> None:
        """Put the learning rates where the schedule has them now. Else those that go from one step's to the next, as
        CosineAnnealingLR, would stay on the old curve: at zero, where more epochs are added to a finished run."""
        if hasattr(self.scheduler, "_get_closed_form_lr"):
            rates = self.scheduler._last_lr = self.scheduler._get_closed_form_lr()
            for group, rate in zip(self.scheduler.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate


def _follows_a_value(scheduler: Any) -> bool:
    """As ReduceLROnPlateau does, a class or one of its objects."""
    return hasattr(scheduler, "step") and "metrics" in inspect.signature(scheduler.step).parameters
