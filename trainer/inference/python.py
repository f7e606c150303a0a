"""From Python: `predict("saved/digits/RUN", ["1.png"])`, or with a tensor of inputs as the model takes them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainer.inference.columns import Columns, width_of
from trainer.inference.members import Member, Source, configure, unlabeled_loader
from utils.errors import Stopped
from utils.tensors import each_tensor, to_device


class Predictions(NamedTuple):
    """For each input: its label, as text; its outputs: probabilities [B, C], or values; and its name.

    Of a segmentation, the outputs are probabilities [B, C, H, W] of the size that the model gives; there are no labels.
    """

    labels: list[str]
    outputs: Tensor
    names: list[str]
    class_names: list[str]  # or of the numbers that are predicted


def predict(run: str | Path, inputs: Any, device: str | torch.device = "cpu") -> Predictions:
    """What a run predicts for inputs without targets.

    run: its folder (the best checkpoint), a checkpoint, or a file of export.py. inputs: files, a folder, a table or
    texts, as after --data of predict.py, read as in the evaluation of the run; or a tensor, or a tuple of tensors, as
    the model takes it. Raises UsageError where something does not fit, Stopped for a file that cannot be read.
    """
    return Predictor(run, device)(inputs)


class Predictor:
    """A run that stays loaded, for one call after another."""

    def __init__(self, run: str | Path, device: str | torch.device = "cpu") -> None:
        self.source, self.device = Source(str(run), []), torch.device(device)
        self._member: Member | None = None  # from the first call on: a model with lazy layers needs data

    def __call__(self, inputs: Any) -> Predictions:
        """inputs: as `predict` takes them."""
        if isinstance(inputs, (str, Path)):
            inputs = [inputs]
        if isinstance(inputs, Sequence) and inputs and all(isinstance(one, (str, Path)) for one in inputs):
            return self._of_data([str(one) for one in inputs])

        def one_batch(_: int) -> Iterator[Any]:  # which lazy layers need
            yield SimpleNamespace(data=each_tensor(Tensor.cpu, (inputs,)))

        member = self._ready(SimpleNamespace(steps_per_epoch=1, iter_steps=one_batch))
        with member.eval_mode():
            (outputs,) = member.probabilities(to_device(inputs, self.device))
        return self._named(outputs, [str(number) for number in range(len(outputs))])

    def _of_data(self, data: Sequence[str]) -> Predictions:
        loader = unlabeled_loader(self.source, self.device, data)
        configure(loader, self.source, self.device)
        member, found, names = self._ready(loader), list[Tensor](), list[str]()
        for _, why in loader.unlabeled.bad if loader.unlabeled is not None else ():
            raise Stopped(why)
        with member.eval_mode():
            for number, batch in enumerate(loader.read_batches(range(loader.sampler.num_steps))):
                if batch.bad:
                    raise Stopped(batch.bad[0][1])
                found += member.probabilities(member.inputs(batch.data), number)
                names += loader.names(batch.indices)
        return self._named(torch.cat(found), names)

    def _ready(self, loader: Any) -> Member:
        if self._member is None:
            self._member = Member(self.source, loader, self.device)
        return self._member

    def _named(self, outputs: Tensor, names: list[str]) -> Predictions:
        assert self._member is not None, "it has predicted"
        named = self.source.outputs_named
        if outputs.dim() > 2:
            return Predictions([], outputs, names, named or [])
        columns = Columns(["label"], False, self._member.kind.name, named, width_of(outputs), {})
        labels = [label for (label,) in columns.rows(range(len(outputs)), names, outputs)]
        return Predictions(labels, outputs, names, columns.outputs)
