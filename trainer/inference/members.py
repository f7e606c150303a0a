"""The runs that predict together: their checkpoints, the data as each wants it, and their outputs."""

import json
from collections.abc import Callable, Sequence
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
from utils.errors import UsageError
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
Views = Sequence[Callable[[Tensor], Tensor]]


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
    def classes(self) -> list[str] | None:
        names = self.facts.get("class_names")
        return None if names is None else [str(name) for name in names]

    @property
    def outputs_named(self) -> list[str] | None:
        """What the columns of the outputs are called: classes, or the numbers to predict."""
        return self.classes or self.facts.get("target_names")

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
        """What its outputs are, once there were some."""
        assert self._kind is not None, "outputs come first"
        return self._kind

    def eval_mode(self) -> AbstractContextManager[None]:
        return self.trainer.eval_mode()

    def outputs(self, data: Any, number: int, view: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Of the batch with this number. view: a change of the images before."""
        trainer = self.trainer
        inputs = trainer.inputs_of(trainer.unpack(data))
        if view is not None:
            if not isinstance(inputs, Tensor) or inputs.dim() != 4:
                raise UsageError(
                    "--tta: the inputs are no images [B, C, H, W], so they cannot be mirrored; leave it out"
                )
            inputs = view(inputs).contiguous()
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

    def probabilities(self, data: Any, number: int, views: Views) -> list[Tensor]:
        """Of the images as they are, and of each view of them; values of a model that gives no probabilities."""
        each = [self.outputs(data, number, view) for view in (None, *views)]
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
        if loader.sampler.n != first.sampler.n:
            raise UsageError(
                f"the runs read {first.sampler.n} and {loader.sampler.n} samples of the same data; average runs of one "
                f"kind of data loader"
            )
        loader.batch_size = first.batch_size
        configure(loader, sources[0], device)
    return found


def unlabeled_loader(source: Source, device: torch.device, data: Sequence[str]) -> Any:
    """A loader of data without targets, in the order of `data`, read as in the evaluation of the run."""
    spec = source.config.run.data_loader
    if not source.config.accepts("data_loader", spec, "predict"):
        raise UsageError(PREDICT.format(type=spec.type))
    return setup.all_in_order(source.config, "data_loader", spec, source.facts, predict=list(data))


def configure(loader: Any, source: Source, device: torch.device) -> None:
    source.config.run.trainer.skip_bad_samples = 1  # they are counted and named by the job
    setup.loaders(source.config, device, loader)
