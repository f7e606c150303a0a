"""The runs that predict together: their checkpoints, the data as each one reads it, and their outputs."""

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from trainer.engine import setup
from trainer.engine.evaluation import test_report
from trainer.engine.evaluation.evaluator import predictor
from trainer.engine.evaluation.kinds import Kind, kind_of, probabilities
from trainer.engine.outputs import main_output
from trainer.inference.columns import names_of
from trainer.inference.views import View
from utils.errors import DataError, UsageError
from utils.run_folder import find_checkpoint, is_exported
from utils.seed import mix, seed_all

if TYPE_CHECKING:
    from trainer.engine.base_trainer import BaseTrainer

PREDICT = (
    "data_loader: {type} has no argument 'predict', by which predict.py gives it data without targets. Add "
    "`predict: list[str] | None = None` to its __init__; where it is not None, it has the files or texts of --data: "
    "make the data set of them, with any target, such as 0, and set self.unlabeled to their names and paths "
    "(DigitsDataLoader in data_loader/data_loaders.py does it in four lines)"
)


class Source:
    """A run, or an exported file: its config with facts, and its weights."""

    def __init__(self, run: str, overrides: Sequence[str]) -> None:
        """Raises UsageError or Stopped where there is none that is sound."""
        self.run = run
        self.weights: nn.Module | tuple[Path, dict[str, Any]]  # a model, or a checkpoint with its path
        if is_exported(run):
            from trainer.export import exported  # which imports a runtime

            self.path = Path(run)
            self.config, self.weights = exported.source(self.path, overrides)
            self.step = -1
        else:
            self.path = find_checkpoint(run)
            self.config, saved = test_report.load(self.path, overrides)
            self.weights, self.step = (self.path, saved), saved["step"]
        self.facts = dict(self.config.facts)
        self.whole_config = self.config.to_dict()  # predictor() leaves out what is for training only

    def __str__(self) -> str:
        return str(self.path)

    @property
    def outputs_named(self) -> list[str] | None:
        return names_of(self.facts)

    def data_key(self) -> str:
        """Equal for those that read the same data in the same way."""
        spec = self.config.run.data_loader
        facts = {name: value for name, value in self.facts.items() if name != "class_counts"}
        return json.dumps([spec.type, spec.args, facts], sort_keys=True, default=str)


class Member:
    """One of them, ready to predict."""

    def __init__(self, source: Source, loader: Any, device: torch.device) -> None:
        self.source, self.loader = source, loader
        self.trainer: BaseTrainer = predictor(source.config, device, loader, source.weights)
        self._kind: Kind | None = None
        self.weight = 1.0

    @property
    def kind(self) -> Kind:
        """The kind of its outputs, known from the first batch on."""
        assert self._kind is not None, "outputs come first"
        return self._kind

    def eval_mode(self) -> AbstractContextManager[None]:
        return self.trainer.eval_mode()

    def inputs(self, data: Any) -> Any:
        """What predict_step takes, of a batch of the loader."""
        return self.trainer.inputs_of(self.trainer.unpack(data))

    def outputs(self, inputs: Any, number: int = 0) -> Tensor:
        """On the CPU. number: of the batch, which seeds what the model draws."""
        trainer = self.trainer
        seed_all(mix(trainer.seed, trainer.step, number, 0))
        try:
            with trainer.autocast():
                found = trainer.memory_format.evaluate(lambda: trainer.predict_step(inputs), [])
        except NotImplementedError:
            raise UsageError(
                f"trainer: {type(trainer).__name__} has no predict_step(inputs), which returns the outputs for inputs "
                f"without targets; add it, such as `return self.model(inputs)`"
            ) from None
        output = main_output(found)
        if not isinstance(output, Tensor):
            raise UsageError(f"predict_step returned {type(output).__name__}; a tensor is needed, one row per sample")
        return output.float().cpu()

    def probabilities(self, inputs: Any, number: int = 0, views: Sequence[View] = ()) -> list[Tensor]:
        """Of the images as they are, and of each view of them; values of a model that gives no probabilities."""
        if views and (not isinstance(inputs, Tensor) or inputs.dim() != 4):
            raise UsageError("--tta: the inputs are no images [B, C, H, W], so they cannot be mirrored; leave it out")
        each = [self.outputs(inputs, number)]
        for view in views:
            found = self.outputs(view.of_images(inputs).contiguous(), number)
            each.append(view.back(found) if found.dim() == 4 else found)
        if self._kind is None:
            loss = self.source.config.run.loss
            self._kind = kind_of(loss.type, each[0], self.source.facts.get("num_classes"))
        return [probabilities(self.kind.name, output) for output in each]


def check_together(sources: Sequence[Source]) -> None:
    """Raises UsageError for runs of different classes or tasks."""
    first = sources[0]
    for other in sources[1:]:
        if first.outputs_named != other.outputs_named:
            have = [", ".join(s.outputs_named) if s.outputs_named else "none" for s in (first, other)]
            raise UsageError(
                f"the runs do not predict the same: the classes of {first.run} are {have[0]}, those of {other.run} "
                f"{have[1]}; average runs of the same classes, in the same order"
            )


def loaders(sources: Sequence[Source], device: torch.device, data: Sequence[str]) -> list[Any]:
    """The loader of `data` for each; one and the same for those that read it in the same way."""
    built: dict[str, Any] = {}
    found = []
    for source in sources:
        key = source.data_key()
        if key not in built:
            built[key] = unlabeled_loader(source, device, data)
        found.append(built[key])
    first = found[0]
    for loader in built.values():
        _check_bad(first, loader)
        if loader.sampler.n != first.sampler.n:
            raise UsageError(
                f"the runs read {first.sampler.n} and {loader.sampler.n} samples of the same data; average runs of one "
                f"kind of data loader"
            )
        loader.batch_size = first.batch_size
        configure(loader, sources[0], device)
    return found


def _check_bad(first: Any, other: Any) -> None:
    """Raises DataError where one leaves out a row that the other reads: their outputs would not be of the same rows."""
    bad = [dict(loader.unlabeled.bad) if loader.unlabeled is not None else {} for loader in (first, other)]
    if differ := bad[0].keys() ^ bad[1].keys():
        name = min(differ, key=str)
        raise DataError(
            f"--data: one of the runs cannot read what another can: {(bad[0] | bad[1])[name]}; correct or remove it, "
            f"or predict with each run alone"
        )


def unlabeled_loader(source: Source, device: torch.device, data: Sequence[str]) -> Any:
    """A loader of data without targets, in the order of `data`, read as in the evaluation of the run."""
    spec = source.config.run.data_loader
    if not source.config.accepts("data_loader", spec, "predict"):
        raise UsageError(PREDICT.format(type=spec.type))
    try:
        return setup.all_in_order(source.config, "data_loader", spec, source.facts, predict=list(data))
    except DataError as e:
        raise DataError(f"--data: {str(e).rpartition('data_loader: ')[2]}") from e


def configure(loader: Any, source: Source, device: torch.device) -> None:
    source.config.run.trainer.skip_bad_samples = 1  # they are counted and named by the job
    setup.loaders(source.config, device, loader)
