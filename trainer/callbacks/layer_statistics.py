"""LayerStatistics: mean, standard deviation and largest magnitude of each layer's outputs and their gradients."""

import contextlib
import fnmatch
import math
from typing import Any

import torch
from torch import Tensor, nn

from trainer.engine.base_trainer import BaseTrainer
from utils.config.files import did_you_mean, nearest
from utils.errors import UsageError
from utils.process import group
from utils.tensors import each_tensor, unwrap


class LayerStatistics:
    """In every `every`-th step, LAYER_mean, _std and _absmax, and LAYER_grad_..., as points of the split `layers`.

    They go to metrics.jsonl and all writers. The hooks exist in these steps only: the others cost nothing.
    layers: patterns of module names, such as blocks.*.attention; null: all modules without children, which may be the
    model itself.
    """

    def __init__(self, every: int = 100, layers: str | list[str] | None = None) -> None:
        if every < 1:
            raise UsageError(f"callbacks: LayerStatistics: every is {every}; give 1 or more")
        self.every = every
        self.layers = [layers] if isinstance(layers, str) else layers or None
        self._hooks = contextlib.ExitStack()  # of the step that runs
        self._seen: dict[str, list[Tensor]] = {}
        self._accumulate = 0  # micro-batches of the step that was seen

    def before_training(self, trainer: BaseTrainer) -> None:
        names = [name for name, _ in unwrap(trainer.model).named_modules() if name]
        for pattern in self.layers or ():
            if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
                near = did_you_mean(nearest(pattern.strip("*."), names))
                raise UsageError(
                    f"callbacks: LayerStatistics: layers: '{pattern}' matches no module{near}; the model has "
                    f"{', '.join(names[:20]) or 'no modules in it'}"
                )
        self._watch_next(trainer)

    def after_step(self, trainer: BaseTrainer) -> None:
        if trainer.step % self.every == 0:
            self._hooks.close()
            values = self._values()
            trainer.reporter.values("layers", trainer.step, values)
        self._watch_next(trainer)

    def _watch_next(self, trainer: BaseTrainer) -> None:
        """Place the hooks if the next step is one of those."""
        self._hooks.close()
        if (trainer.step + 1) % self.every:
            return
        self._seen = {}
        self._hooks.enter_context(trainer.compiler.off())
        for name, module in self._chosen(trainer):
            self._hooks.callback(module.register_forward_hook(self._hook(trainer, name)).remove)

    def _chosen(self, trainer: BaseTrainer) -> list[tuple[str, nn.Module]]:
        modules = unwrap(trainer.model).named_modules()
        if self.layers is None:
            return [(name or type(module).__name__, module) for name, module in modules if not any(module.children())]
        return [(n, m) for n, m in modules if n and any(fnmatch.fnmatchcase(n, pattern) for pattern in self.layers)]

    def _hook(self, trainer: BaseTrainer, name: str) -> Any:
        def look(tensor: Tensor) -> Tensor:
            if tensor.is_floating_point():
                self._note(name, tensor)
                if tensor.requires_grad:  # not a module's backward hook: that breaks layers that work in place
                    tensor.register_hook(lambda gradient: self._note(f"{name}_grad", gradient))
            return tensor

        def hook(module: nn.Module, inputs: Any, outputs: Any) -> None:
            if torch.is_grad_enabled():  # else it is an evaluation, which may come before the next step
                accumulate = trainer.data_loader.sampler.accumulate
                if accumulate != self._accumulate:  # memory ran out, and the step runs again
                    self._seen, self._accumulate = {}, accumulate
                each_tensor(look, outputs)

        return hook

    @torch.no_grad()
    def _note(self, name: str, tensor: Tensor) -> None:
        """[count, sum, sum of squares, largest magnitude], on the device."""
        x = tensor.detach().float()
        numbers = [x.new_full((), x.numel()), x.sum(), x.square().sum(), x.abs().amax()] if x.numel() else []
        if numbers:
            self._seen.setdefault(name, []).append(torch.stack(numbers))

    def _values(self) -> dict[str, float]:
        """Over the micro-batches of all ranks. Waits for the device."""
        rows: dict[str, list[list[float]]] = {}
        for of_rank in group.gather({name: torch.stack(found).tolist() for name, found in self._seen.items()}):
            for name, found in of_rank.items():
                rows.setdefault(name, []).extend(found)
        self._seen = {}
        values: dict[str, float] = {}
        for name, found in rows.items():
            counts, totals, squares, largest = (list(column) for column in zip(*found, strict=True))
            mean = sum(totals) / sum(counts)
            values[f"{name}_mean"] = mean
            values[f"{name}_std"] = math.sqrt(max(0.0, sum(squares) / sum(counts) - mean**2))
            values[f"{name}_absmax"] = max(largest)
        return values
