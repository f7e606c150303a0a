"""From Python: `predict("saved/digits/RUN", ["1.png"])`, or with a tensor of inputs as the model takes them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainer.checkpoint.load import load_model
from trainer.engine.evaluation import test_report
from trainer.engine.evaluation.kinds import Name, kind_of, probabilities
from trainer.engine.outputs import main_output
from trainer.inference.columns import Columns
from trainer.inference.members import Member, Source, configure, unlabeled_loader
from utils.errors import Stopped
from utils.run_folder import find_checkpoint
from utils.tensors import to_device


class Predictions(NamedTuple):
    """For each input: its label, as text; its outputs: probabilities [B, C], or values; and its name."""

    labels: list[str]
    outputs: Tensor
    names: list[str]
    class_names: list[str]  # or of the numbers that are predicted


def predict(run: str | Path, inputs: Any, device: str | torch.device = "cpu") -> Predictions:
    """What a run predicts for inputs without targets.

    run: its folder (the best checkpoint), or a checkpoint. inputs: files, a folder, a table or texts, as after --data
    of predict.py, read as in the evaluation of the run; or a tensor, or a tuple of tensors, as the model takes it.
    Raises UsageError where something does not fit, Stopped for a file that cannot be read.
    """
    device = torch.device(device)
    if isinstance(inputs, (str, Path)):
        inputs = [inputs]
    if isinstance(inputs, Sequence) and inputs and isinstance(inputs[0], (str, Path)):
        return Predictor(run, device)([str(path) for path in inputs])
    config, _ = test_report.load(find_checkpoint(str(run)), [])
    with torch.inference_mode():
        output = main_output(load_model(run, device)(to_device(inputs, device))).float().cpu()
    kind = kind_of(config.run.loss.type, output, config.facts.get("num_classes")).name
    names = config.facts.get("class_names") or config.facts.get("target_names")
    return _predictions(kind, probabilities(kind, output), names, list(map(str, range(len(output)))))


class Predictor:
    """A run that stays loaded, for one call after another. run: also a file that export.py wrote."""

    def __init__(self, run: str | Path, device: str | torch.device = "cpu") -> None:
        self.source, self.device = Source(str(run), []), torch.device(device)
        self._member: Member | None = None  # from the first call on: a model with lazy layers needs data

    def __call__(self, data: Sequence[str]) -> Predictions:
        """data: as after --data of predict.py."""
        loader = unlabeled_loader(self.source, self.device, data)
        configure(loader, self.source, self.device)
        if self._member is None:
            self._member = Member(self.source, loader, self.device)
        member, found, names = self._member, list[Tensor](), list[str]()
        with member.eval_mode():
            for number, batch in enumerate(loader.read_batches(range(loader.sampler.num_steps))):
                if batch.bad:
                    raise Stopped(batch.bad[0][1])
                (outputs,) = member.probabilities(batch.data, number, ())
                found.append(outputs)
                names += loader.names(batch.indices)
        return _predictions(member.kind.name, torch.cat(found), self.source.outputs_named, names)


def _predictions(kind: Name, outputs: Tensor, named: Sequence[str] | None, names: list[str]) -> Predictions:
    width = outputs.shape[1] if outputs.dim() == 2 and outputs.shape[1] > 1 else 0
    columns = Columns(["label"], False, kind, named, width, {})
    labels = [label for (label,) in columns.rows(range(len(outputs)), names, outputs)]
    return Predictions(labels, outputs, names, columns.outputs)
