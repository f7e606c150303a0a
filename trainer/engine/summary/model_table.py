"""The table at the start of a run: layers with output shapes, parameters and FLOPs; the data, the device."""

import contextlib
import copy
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from logger.console import log
from trainer.engine.optim.schedules import by_name
from trainer.engine.summary.flops import FlopCounter
from utils.tensors import count_parameters, each_tensor, unwrap

if TYPE_CHECKING:
    from trainer.engine.base_trainer import BaseTrainer

ROWS = 12  # layers that are shown: containers are opened as long as there is room
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


class Traced:
    """What one sample showed of each layer, by name: its output's shape and its FLOPs; '' is the whole model."""

    def __init__(self) -> None:
        self.shapes: dict[str, str] = {}
        self.flops: Counter[str] = Counter()


def show(trainer: "BaseTrainer", data: Any) -> None:
    """Log the table and what the run is about to do. data: the first batch, of which one sample is tried out."""
    if trainer.rank == 0 and not trainer.reporter.is_muted:
        model = unwrap(trainer.model)
        with trainer.clock.phase("logging"):
            log.info(_run_line(trainer))
            log.info(table(model, _traced(trainer, model, data)))


def table(model: nn.Module, traced: Traced | None) -> str:
    """Rows of name, class, output shape, parameters and FLOPs; traced: None leaves out what it would show."""
    rows = [["layer", "type", "output", "parameters", "FLOPs/sample"]]
    for name, module in [*_layers(model), ("", model)]:
        shape, flops = (traced.shapes.get(name, ""), _short(traced.flops[name])) if traced else ("", "")
        rows.append([name or "all", class_name(module), shape, f"{count_parameters(module):,}", flops])
    if traced is None:
        rows = [[name, kind, parameters] for name, kind, _, parameters, _ in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    words = 3 if traced else 2  # columns; the others are numbers
    lines = []
    for row in rows:
        cells = [
            text.rjust(w) if i >= words else text.ljust(w) for i, (text, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join(lines)


def class_name(module: nn.Module) -> str:
    return type(module).__name__.removeprefix("FSDP")  # sharding puts it before the name


def _layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The model's children; containers also by what is in them, from the first on, as long as it fits."""
    layers = list(model.named_children())
    opened = True
    while opened:
        opened = False
        for i, (name, module) in enumerate(layers):
            inner = [(f"{name}.{child}", below) for child, below in module.named_children()]
            if isinstance(module, CONTAINERS) and inner and len(layers) - 1 + len(inner) <= ROWS:
                layers[i : i + 1] = inner
                opened = True
                break
    return layers


def _traced(trainer: "BaseTrainer", model: nn.Module, data: Any) -> Traced | None:
    """Call the model with one sample; None where that does not work, such as for a trainer that calls its parts.

    Attributes, buffers and random states are restored afterwards.
    """
    if trainer.calls_parts or trainer.parallel.needs_all_ranks(1):
        return None
    traced = Traced()
    try:
        inputs = each_tensor(lambda tensor: tensor[:1], trainer.inputs_of(trainer.unpack(data)))
        with contextlib.ExitStack() as stack:
            stack.enter_context(_untouched(model, trainer.device))
            stack.enter_context(trainer.compiler.off())
            stack.enter_context(trainer.eval_mode())
            stack.enter_context(trainer.autocast())
            stack.enter_context(_hooks(model, traced))
            model(inputs)
    except Exception:  # whatever the model does: a failed table must not stop the run
        return None
    return traced


@contextlib.contextmanager
def _untouched(model: nn.Module, device: torch.device) -> Iterator[None]:
    attributes = [vars(module) for module in model.modules()]
    inside = [value for of_one in attributes for value in of_one.values() if type(value) in (list, dict, set)]
    kept = [(changed, copy.copy(changed)) for changed in (*attributes, *inside)]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it computes a whole layer of a transformer in one call
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for changed, before in kept:
            changed.clear()
            if isinstance(changed, list):
                changed.extend(before)
            else:
                changed.update(before)
        with torch.no_grad():
            for buffer, before_ in buffers:
                buffer.copy_(before_)


@contextlib.contextmanager
def _hooks(model: nn.Module, traced: Traced) -> Iterator[None]:
    """Note what each module returns, and count FLOPs for all modules that are being called."""
    running: list[str] = []

    def add(flops: int) -> None:
        traced.flops.update(dict.fromkeys({"", *running}, flops))

    with contextlib.ExitStack() as stack:
        for name, module in model.named_modules():

            def enter(module: nn.Module, inputs: Any, name: str = name) -> None:
                running.append(name)

            def leave(module: nn.Module, inputs: Any, outputs: Any, name: str = name) -> None:
                running.pop()
                traced.shapes[name] = _shape(outputs)

            stack.enter_context(module.register_forward_pre_hook(enter))
            stack.enter_context(module.register_forward_hook(leave))
        stack.enter_context(FlopCounter(add))
        yield


def _shape(outputs: Any) -> str:
    """`[B, 10]` of a tensor of one sample; of several, that of the first."""
    found: list[Tensor] = []
    each_tensor(lambda tensor: found.append(tensor) or tensor, outputs)  # type: ignore[func-returns-value]
    if not found:
        return ""
    sizes = ["B" if i == 0 and size == 1 else str(size) for i, size in enumerate(found[0].shape)]
    return f"[{', '.join(sizes)}]" + (" ..." if len(found) > 1 else "")


def _short(number: int) -> str:
    """`1.3 M`"""
    for unit in ("", " k", " M", " G", " T"):
        if number < 1000:
            return f"{number:.1f}{unit}" if unit else str(number)
        number /= 1000  # type: ignore[assignment]
    return f"{number:.1f} P"


def _run_line(trainer: "BaseTrainer") -> str:
    """`on cpu: 1,200 samples for training, 300 for validation, 10 classes  19 steps per epoch, 285 in all`"""
    device = torch.cuda.get_device_name(trainer.device) if trainer.device.type == "cuda" else str(trainer.device)
    ranks = f" x {trainer.world_size}" if trainer.world_size > 1 else ""
    text = f"on {device}{ranks}: {trainer.data_loader.sampler.n:,} samples for training"
    loaders = by_name(trainer.valid_data_loader)
    if loaders:
        counts = [f"{loader.sampler.n:,}" + (f" ({name})" if name else "") for name, loader in loaders.items()]
        text += f", {' and '.join(counts)} for validation"
    if classes := trainer.config.facts.get("num_classes"):
        text += f", {classes} classes"
    return f"{text}  {trainer.steps_per_epoch:,} steps per epoch, {trainer.max_steps:,} in all"
