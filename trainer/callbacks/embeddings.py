"""Embeddings: the inputs of the model's last layer, for TensorBoard's projector."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from logger.image_grid import captions, is_images, unnormalized
from trainer.engine.evaluation.first_samples import FirstSamples
from utils.errors import UsageError
from utils.tensors import unwrap


class Embeddings:
    """The input of a layer for the first `samples` samples of each validation, with their labels and images.

    layer: its name in the model, such as classifier; default: the last linear layer. With trainer.compile, these
    validations run uncompiled: compiled code may bypass hooks.
    """

    def __init__(self, samples: int = 1000, layer: str | None = None) -> None:
        self.samples, self.layer = samples, layer

    @contextmanager
    def during_eval(self, trainer: Any) -> Iterator[None]:
        self.first = FirstSamples(trainer, self.samples)
        self._caught: Tensor | None = None
        with ExitStack() as stack:
            if self.first.missing:
                hook = self._layer(unwrap(trainer.model)).register_forward_pre_hook(self._catch)
                stack.callback(hook.remove)
                stack.enter_context(trainer.compiler.off())
            yield
        if not trainer.interrupted and (found := self.first.together()) and trainer.reporter.shows:
            self._show(trainer, found)

    def _layer(self, model: nn.Module) -> nn.Module:
        layers = dict(model.named_modules())
        if self.layer is None:
            linear = [layer for layer in layers.values() if isinstance(layer, nn.Linear)]
            if not linear:
                raise UsageError("callbacks: Embeddings found no linear layer in the model; name one with layer: NAME")
            return linear[-1]
        if self.layer not in layers:
            raise UsageError(
                f"callbacks: Embeddings has layer '{self.layer}', but the model has {', '.join(filter(None, layers))}"
            )
        return layers[self.layer]

    def _catch(self, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._caught = inputs[0]

    def after_eval_batch(self, trainer: Any, batch: Any, outputs: Any) -> None:
        caught, self._caught = self._caught, None
        if caught is None or len(caught) != batch.size:
            return
        inputs, targets = batch.data[:2]
        found = {"images": inputs} if is_images(inputs) else {}
        self.first.add(vectors=caught.detach().flatten(1).float(), targets=targets, **found)

    def _show(self, trainer: Any, found: dict[str, Tensor]) -> None:
        vectors = found["vectors"]
        labels = captions(found["targets"], trainer.config.facts.get("class_names"), len(vectors))
        images = None
        if "images" in found:
            images = unnormalized(found["images"], getattr(trainer.data_loader, "normalization", None))
        numbers = [str(i) for i in range(len(vectors))]
        trainer.reporter.embedding("embeddings", vectors, labels or numbers, images, trainer.step)
