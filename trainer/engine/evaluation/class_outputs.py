"""Base of callbacks that show what an evaluation of a classifier found."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainer.engine.evaluation.kinds import Name, kind_of, probabilities
from trainer.engine.outputs import main_output
from utils.errors import UsageError

OF_CLASSES = ("logits", "log-probabilities", "probabilities")


class Scores(NamedTuple):
    """A batch: probabilities [N, C], float32, and targets [N], on the device: -1 if outside of 0..C-1."""

    probabilities: Tensor
    targets: Tensor


class ClassCallback:
    """Calls `begin` before an evaluation, `add` for each of its batches and `end` after it, unless it was interrupted.

    Over several ranks each gets its own samples. `pixels`: are outputs [B, C, H, W] welcome, each pixel as a sample?
    """

    pixels = False

    def begin(self, trainer: Any) -> None: ...

    def add(self, trainer: Any, batch: Any, scores: Scores) -> None:
        raise NotImplementedError

    def end(self, trainer: Any) -> None:
        raise NotImplementedError

    @contextmanager
    def during_eval(self, trainer: Any) -> Iterator[None]:
        self._kind: Name | None = None
        self.begin(trainer)
        yield
        if not trainer.interrupted:
            self.end(trainer)

    @torch.no_grad()
    def after_eval_batch(self, trainer: Any, batch: Any, outputs: Any) -> None:
        self.add(trainer, batch, self._scores(trainer, batch.data, main_output(outputs)))

    def _scores(self, trainer: Any, data: Any, outputs: Any) -> Scores:
        targets = data[1] if isinstance(data, (list, tuple)) and len(data) > 1 else None
        name, facts = type(self).__name__, trainer.config.facts
        if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor):
            raise UsageError(f"callbacks: {name} needs batches of (inputs, targets), and outputs that are a tensor")
        dims = outputs.dim()
        fits = dims >= 2 and targets.shape == outputs.shape[:1] + outputs.shape[2:] and not targets.is_floating_point()
        if not fits or (dims > 2 and not self.pixels):
            raise UsageError(
                f"callbacks: {name} needs a score for each class, [B, C], and a class index for each sample, [B]; "
                f"got outputs {list(outputs.shape)} and targets {list(targets.shape)}, {targets.dtype}"
            )
        outputs = outputs.flatten(2).transpose(1, 2).flatten(0, 1) if dims > 2 else outputs
        if self._kind is None:  # once for each evaluation: it waits for the device
            self._kind = kind_of(trainer.config.run.loss.type, outputs, facts.get("num_classes")).name
            if self._kind not in OF_CLASSES:
                raise UsageError(f"callbacks: {name} is for one class per sample; the outputs are {self._kind}")
        targets = targets.flatten()
        targets = torch.where((targets >= 0) & (targets < outputs.shape[1]), targets, -1)
        return Scores(probabilities(self._kind, outputs).float(), targets)


def class_names(trainer: Any, n: int) -> list[str]:
    """Those that the data states; else 0, 1, ..."""
    given: Sequence[Any] = trainer.config.facts.get("class_names") or ()
    return [str(name) for name in given] if len(given) == n else [str(i) for i in range(n)]


def tag(trainer: Any, name: str) -> str:
    """What a writer calls a picture of the evaluation that runs: valid/NAME, valid_SET/NAME or test/NAME."""
    label = trainer.evaluating.replace("validation on ", "valid_").replace("validation", "valid")
    return f"{label}/{name}"
