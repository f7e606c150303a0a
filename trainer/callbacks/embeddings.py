"""Embeddings: what the model makes of samples before its last layer, for TensorBoard's projector."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from logger.image_grid import captions, is_images, unnormalized
from utils.errors import UsageError
from utils.tensors import unwrap


class Embeddings:
    """The input of a layer for the first `samples` samples of each validation, with their labels and images.

    layer: its name in the model, such as classifier; default: the last linear layer. Rank 0's samples.
    """

    def __init__(self, samples: int = 1000, layer: str | None = None) -> None:
        self.samples, self.layer = samples, layer

    @contextmanager
    def during_eval(self, trainer: Any) -> Iterator[None]:
        self.vectors: list[Tensor] = []
        self.targets: list[Tensor] = []
        self.images: list[Tensor] = []
        self._caught: Tensor | None = None
        with ExitStack() as stack:
            if trainer.reporter.shows:
                hook = self._layer(unwrap(trainer.model)).register_forward_pre_hook(self._catch)
                stack.callback(hook.remove)
            yield
        if self.vectors and not trainer.interrupted:
            self._show(trainer)

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
        missing = self.samples - sum(map(len, self.vectors))
        if missing <= 0 or self._caught is None or len(self._caught) != batch.size:
            return
        inputs, targets = batch.data[:2]
        self.vectors.append(self._caught.detach()[:missing].flatten(1).float().cpu())
        self.targets.append(targets[:missing].cpu())
        if is_images(inputs):
            self.images.append(inputs[:missing].cpu())

    def _show(self, trainer: Any) -> None:
        vectors = torch.cat(self.vectors)
        labels = captions(torch.cat(self.targets), trainer.config.facts.get("class_names"), len(vectors))
        images = None
        if sum(map(len, self.images)) == len(vectors):
            images = unnormalized(torch.cat(self.images), getattr(trainer.data_loader, "normalization", None))
        numbers = [str(i) for i in range(len(vectors))]
        trainer.reporter.embedding("embeddings", vectors, labels or numbers, images, trainer.step)
