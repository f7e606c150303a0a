"""Any step can be run again alone, since its samples and draws are functions: to find what went wrong in it."""

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from logger.logger import log
from trainer import checkpoint, state
from trainer.finite import Finite, NonFinite
from utils import distributed
from utils.errors import Refused
from utils.tensors import each_tensor


class Watch:
    """Notes the first layer whose output is not finite, and the first whose gradient is not."""

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


class _Silent:
    """A reporter for replays: keeps the last values, and tells nobody."""

    values: Mapping[str, float] = {}

    def train_point(self, step: int, values: Mapping[str, float]) -> None:
        self.values = values

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


def explain(trainer: Any, found: NonFinite) -> str:
    """What a person needs to know of a step that went non-finite."""
    rates = ", ".join(f"{name} {value:.6g}" for name, value in trainer.learning_rates().items())
    told, culprit = found, None
    if trainer.saving is not None:
        trainer.saving.wait()  # it counts as the newest
    if trainer.run is not None:
        told, culprit, rates = _find(trainer, found, rates)
    step, epoch = told.step + 1, told.step // trainer.steps_per_epoch + 1
    indices = trainer.data_loader.indices(told.step).tolist()
    lines = [
        f"{told} in step {step} (epoch {epoch}, {rates}); nothing of it was saved",
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


def _find(trainer: Any, found: NonFinite, rates: str) -> tuple[NonFinite, str | None, str]:
    """The first step that goes wrong, the layer in it, and its learning rates.

    Where nothing was updated since, that step is run again as it stands. Else the steps since the newest checkpoint
    are: on a GPU the loss is looked at only now and then, so `found` may be late.
    """
    if found.step != trainer.step or trainer._calls > 1:
        newest = checkpoint.checkpoints(trainer.run.checkpoints)
        path = distributed.from_main(next((p for p in newest if checkpoint.step_of(p) <= found.step), None))
        if path is None:
            return found, None, rates
        log.info(f"{found} in step {found.step + 1}; looking for the layer: running the steps since {path.name} again")
        try:
            state.restore(trainer, checkpoint.load(path), path)
        except checkpoint.BrokenCheckpoint:
            return found, None, rates
    again, culprit = _run_to(trainer, found.step + 1)
    if again is None:
        return found, "nothing, when run again: the hardware, or an operation that is not deterministic", rates
    return again, culprit, ", ".join(f"{name} {value:.6g}" for name, value in trainer.learning_rates().items())


def _run_to(trainer: Any, step: int) -> tuple[NonFinite | None, str | None]:
    """Run the steps up to `step` again; the first that is not finite ends it: what, and in which layer it began.

    Over several ranks, all must call it; the layer is that of the lowest rank that met one.
    """
    told, trainer.reporter = trainer.reporter, _Silent()
    trainer.model.train()
    trainer.finite = Finite(trainer.device)
    stream = trainer.data_loader.stream(trainer.step)
    watch = Watch()
    try:
        with watch.on(state.unwrap(trainer.model)), trainer.compiler.off():
            while trainer.step < step:
                watch.first = None  # a gradient that overflows in fp16 is no fault: the scaler leaves that step out
                trainer.window.clear()
                trainer._one_step(stream)
                trainer.finite.now()
                trainer.finite.check_state(trainer.step - 1, trainer.model, trainer.optimizers())
                if any(schedule.on_value for schedule in trainer.schedules()):
                    trainer._close_step()  # its validation decides the learning rate
                trainer.closed = trainer.step
    except NonFinite as e:  # raised on all ranks
        on_ranks = [(rank, first) for rank, first in enumerate(distributed.gather(watch.first)) if first]
        if not on_ranks:
            return e, f"the {e.what} itself, after finite outputs of all layers"
        rank, first = on_ranks[0]
        return e, first + (f", on rank {rank}" if trainer.world > 1 else "")
    finally:
        stream.close()
        trainer.values = trainer.reporter.values or trainer.window.means()
        trainer.reporter = told
    return None, None


def replay(trainer: Any, step: int) -> None:
    """Run step `step` (from 1) again, from the newest checkpoint before it, and tell about it. Nothing is written."""
    if not 1 <= step <= trainer.max_steps:
        raise Refused(f"--replay {step}: this run has steps 1 to {trainer.max_steps}")
    for path in [p for p in checkpoint.checkpoints(trainer.run.checkpoints) if checkpoint.step_of(p) < step]:
        try:
            state.restore(trainer, checkpoint.load(path), path)
            break
        except checkpoint.BrokenCheckpoint as e:
            log.warning(f"{path} cannot be used: {e}; trying an older one")
    log.info(f"replaying step {step} from step {trainer.step}" + ", uncompiled" * bool(trainer.compiler.what))
    found, culprit = _run_to(trainer, step)
    if found is not None:
        step = found.step + 1
    log.info(f"step {step}: " + (f"{found}; first not finite: {culprit}" if found else "finite"))
    log.info("  ".join(f"{k} {v:.8g}" for k, v in (trainer.values | trainer.learning_rates()).items()))
    log.info(f"samples: {trainer.data_loader.indices(step - 1).tolist()}")


def _finite(value: Tensor) -> bool:
    return not value.is_floating_point() or math.isfinite(value.detach().abs().sum().float().item())
