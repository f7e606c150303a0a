"""Any step can be run again alone, since its samples and draws are functions: to find what went wrong in it."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from logger.logger import log
from trainer import checkpoint
from utils.errors import Refused


class NonFinite(Exception):
    """A loss, a gradient or a weight is NaN or infinite. `step`: steps done before the one it happened in."""

    def __init__(self, step: int, what: str, value: float) -> None:
        super().__init__(f"the {what} is {value}")
        self.step, self.what, self.value = step, what, value


class Watch:
    """Notes the first layer whose output is not finite, and the first whose gradient is not."""

    def __init__(self) -> None:
        self.first: str | None = None

    @contextmanager
    def on(self, model: nn.Module) -> Iterator["Watch"]:
        handles = []
        for name, module in model.named_modules():
            label = f"{name or 'the model'} ({type(module).__name__})"
            handles.append(module.register_forward_hook(self._hook(label, "output of")))
            handles.append(module.register_full_backward_hook(self._hook(label, "gradient into")))
        try:
            yield self
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, label: str, what: str) -> Any:
        def hook(module: nn.Module, inputs: Any, outputs: Any) -> None:
            if self.first is None and not all(_finite(t) for t in _tensors(outputs if what[0] == "o" else inputs)):
                self.first = f"{what} {label}"

        return hook


def explain(trainer: Any, found: NonFinite) -> str:
    """What a person needs to know of a step that went non-finite."""
    step, epoch = found.step + 1, found.step // trainer.steps_per_epoch + 1
    rates = ", ".join(f"{name} {value:.6g}" for name, value in trainer._learning_rates().items())
    indices = trainer.data_loader.indices(found.step).tolist()
    if found.step == trainer.step:  # nothing was updated since: run it again here and now
        culprit = _culprit(trainer)
    else:
        culprit = None
    lines = [
        f"the {found.what} is {found.value} in step {step} (epoch {epoch}, {rates}); nothing of it was saved",
        f"first not finite: {culprit}" if culprit else "",
        f"samples of this step: {indices[:16]}" + (f" and {len(indices) - 16} more" if len(indices) > 16 else ""),
    ]
    if trainer.run is not None:
        newest = trainer._newest()
        lines += [
            f"newest checkpoint: {newest}",
            f"replay exactly this step: python train.py -r {trainer.run} --replay {step}",
        ]
    lines.append(
        "usual remedies: a lower learning rate (--lr), trainer.clip_grad_norm=1.0, precision: bf16 in place of fp16, "
        "or a look at these samples"
    )
    return "\n".join(line for line in lines if line)


def _culprit(trainer: Any) -> str | None:
    """Run the step of `trainer.step` again and see which layer is the first to go wrong."""
    watch = Watch()
    before = [p.detach().clone() for p in trainer.model.parameters()]
    try:
        with watch.on(trainer.model):
            trainer._calls = 0
            stream = trainer.data_loader.stream(trainer.step)
            trainer.train_step(trainer._next_batches(stream))
            stream.close()
    except NonFinite as e:
        return watch.first or f"the {e.what} itself, after finite outputs of all layers"
    finally:
        with torch.no_grad():
            for p, old in zip(trainer.model.parameters(), before, strict=True):
                p.copy_(old)
    return watch.first


def replay(trainer: Any, step: int) -> None:
    """Run step `step` (from 1) again, from the newest checkpoint before it, and tell about it. Nothing is written."""
    if not 1 <= step <= trainer.max_steps:
        raise Refused(f"--replay {step}: this run has steps 1 to {trainer.max_steps}")
    for path in [p for p in checkpoint.checkpoints(trainer.run.checkpoints) if checkpoint.step_of(p) < step]:
        try:
            trainer.resume(path, checkpoint.load(path))
            break
        except checkpoint.BrokenCheckpoint as e:
            log.warning(f"{path} cannot be used: {e}; trying an older one")
    log.info(f"replaying step {step} from step {trainer.step}")
    trainer.model.train()
    trainer.reporter.writers.clear()
    stream = trainer.data_loader.stream(trainer.step)
    watch = Watch()
    try:
        while trainer.step < step - 1:
            trainer._one_step(stream)
            trainer.closed = trainer.step
        trainer.window.clear()
        with watch.on(trainer.model):
            trainer._one_step(stream)
        outcome = "finite"
    except NonFinite as e:
        step, outcome = e.step + 1, f"{e}; first not finite: {watch.first or 'the loss itself'}"
    finally:
        stream.close()
    indices = trainer.data_loader.indices(step - 1).tolist()
    values = trainer.window.means() or {}
    log.info(f"step {step}: {outcome}")
    log.info("  ".join(f"{k} {v:.8g}" for k, v in (values | trainer._learning_rates()).items()))
    log.info(f"samples: {indices}")


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [t for v in value for t in _tensors(v)] if isinstance(value, (list, tuple)) else []


def _finite(value: Tensor) -> bool:
    return not value.is_floating_point() or math.isfinite(value.detach().abs().sum().float().item())
