"""Runs any step again, since its samples and draws are functions of its number: to find what went wrong in it."""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from logger.console import log
from trainer.checkpoint import files, state
from trainer.engine.nonfinite import FiniteCheck, NonFinite
from utils.errors import UsageError
from utils.process import group
from utils.tensors import each_tensor, unwrap

if TYPE_CHECKING:
    from trainer.engine.base_trainer import BaseTrainer


class Watch:
    """Finds the first layer whose output is not finite, and the first whose gradient is not."""

    def __init__(self) -> None:
        self.first: str | None = None

    @contextmanager
    def on(self, model: nn.Module) -> Iterator[None]:
        with ExitStack() as hooks:
            for name, module in model.named_modules():
                hook = self._hook(f"{name or 'the model'} ({type(module).__name__})")
                hooks.enter_context(module.register_forward_hook(hook))
            yield

    def _hook(self, label: str) -> Any:
        def look(tensor: Tensor) -> Tensor:
            self._note(tensor, f"output of {label}")
            if tensor.requires_grad:  # not a module's backward hook: that breaks layers that work in place
                tensor.register_hook(lambda gradient: self._note(gradient, f"gradient of the output of {label}"))
            return tensor

        def hook(module: nn.Module, inputs: Any, outputs: Any) -> None:
            each_tensor(look, outputs)

        return hook

    def _note(self, tensor: Tensor, what: str) -> None:
        if self.first is None and not _finite(tensor):
            self.first = what


def explain(trainer: "BaseTrainer", found: NonFinite) -> str:
    """What to report about a step that became non-finite."""
    rates, culprit = trainer.learning_rates(), None
    if trainer.saving is not None:
        trainer.saving.wait()  # it counts as the newest
    if trainer.run is not None:
        found, culprit, rates = _find(trainer, found, rates)
    step, epoch = found.step + 1, found.step // trainer.steps_per_epoch + 1
    indices = trainer.data_loader.indices(found.step).tolist()
    text = ", ".join(f"{name} {value:.6g}" for name, value in rates.items())
    lines = [
        f"{found} in step {step} (epoch {epoch}, {text}); nothing of it was saved",
        f"first not finite: {culprit}" if culprit else "",
        f"samples of this step: {indices[:16]}" + (f" and {len(indices) - 16} more" if len(indices) > 16 else ""),
    ]
    if trainer.saving is not None:
        lines += [
            f"newest checkpoint: {trainer.saving.newest()}",
            f"replay exactly this step: python train.py -r {trainer.run} --replay {step}",
        ]
    lines.append(
        "usual remedies: a lower learning rate (--lr), trainer.clip_grad_norm=1.0, precision: bf16 in place of fp16, "
        "or a look at these samples"
    )
    return "\n".join(line for line in lines if line)


def _find(
    trainer: "BaseTrainer", found: NonFinite, rates: dict[str, float]
) -> tuple[NonFinite, str | None, dict[str, float]]:
    """The first step that goes wrong, the layer in it, and its learning rates.

    Where no weight changed since, that step is run again directly. Otherwise the steps since the newest checkpoint are:
    on a GPU the loss is looked at only now and then, so `found` may be late.
    """
    assert trainer.run is not None
    if found.step != trainer.step or trainer.updated_in_step:
        newest = files.checkpoints(trainer.run.checkpoints)
        path = group.broadcast(next((p for p in newest if files.step_of(p) <= found.step), None))
        if path is None:
            return found, None, rates
        log.info(f"{found} in step {found.step + 1}; looking for the layer: running the steps since {path.name} again")
        try:
            state.restore(trainer, files.load(path), path)
        except files.BrokenCheckpoint:
            return found, None, rates
    again = run_to(trainer, found.step + 1)
    if again.error is None:
        return found, "nothing, when run again: the hardware, or an operation that is not deterministic", rates
    return again.error, again.culprit, trainer.learning_rates()


@dataclass
class Replayed:
    values: dict[str, float]  # of the last step
    error: NonFinite | None = None
    culprit: str | None = None  # the layer in which the error began


def run_to(trainer: "BaseTrainer", step: int) -> Replayed:
    """Run the steps up to `step` again; the first that is not finite ends it.

    Over several ranks, all must call it; the layer is that of the lowest rank that met one. Nothing is written.
    """
    trainer.finite = FiniteCheck(trainer.device)
    trainer.before_steps()
    stream = trainer.data_loader.iter_steps(trainer.step)
    watch = Watch()
    values: dict[str, float] = {}
    try:
        with watch.on(unwrap(trainer.model)), trainer.compiler.off(), trainer.reporter.muted():
            while trainer.step < step:
                watch.first = None  # an fp16 gradient that overflows is expected: the scaler skips that step
                trainer.window.clear()
                trainer.run_step(stream)
                values = trainer.collect()
                trainer.finite.check_state(trainer.step - 1, trainer.model, trainer.optimizers())
                if any(schedule.on_value for schedule in trainer.schedules()):
                    trainer.complete_step()  # its validation decides the learning rate
                trainer.last_completed_step = trainer.step
    except NonFinite as e:  # raised on all ranks
        values = trainer.window.means()
        if isinstance(e.value, float):
            values[e.what] = e.value
        on_ranks = [(rank, first) for rank, first in enumerate(group.gather(watch.first)) if first]
        if not on_ranks:
            return Replayed(values, e, f"the {e.what} itself, after finite outputs of all layers")
        rank, first = on_ranks[0]
        return Replayed(values, e, first + (f", on rank {rank}" if trainer.world_size > 1 else ""))
    finally:
        stream.close()
    return Replayed(values)


def replay(trainer: "BaseTrainer", step: int) -> None:
    """Run step `step` (from 1) again, from the newest checkpoint before it, and report on it. Nothing is written."""
    if not 1 <= step <= trainer.max_steps:
        raise UsageError(f"--replay {step}: this run has steps 1 to {trainer.max_steps}")
    assert trainer.run is not None
    for path in [p for p in files.checkpoints(trainer.run.checkpoints) if files.step_of(p) < step]:
        try:
            state.restore(trainer, files.load(path), path)
            break
        except files.BrokenCheckpoint as e:
            log.warning(f"{path} cannot be used: {e}; trying an older one")
    log.info(f"replaying step {step} from step {trainer.step}" + (", uncompiled" if trainer.compiler.enabled else ""))
    again = run_to(trainer, step)
    if again.error is not None:
        step = again.error.step + 1
    outcome = f"{again.error}; first not finite: {again.culprit}" if again.error else "finite"
    log.info(f"step {step}: {outcome}")
    log.info("  ".join(f"{k} {v:.8g}" for k, v in (again.values | trainer.learning_rates()).items()))
    log.info(f"samples: {trainer.data_loader.indices(step - 1).tolist()}")


def _finite(value: Tensor) -> bool:
    return not value.is_floating_point() or math.isfinite(value.detach().abs().sum().float().item())
