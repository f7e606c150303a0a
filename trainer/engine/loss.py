"""The criterion as the training step calls it: what its mean is over, and what its first batch shows to be wrong."""

import functools
import inspect
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from logger.console import log
from trainer.engine.out_of_memory import is_out_of_memory
from trainer.engine.outputs import call_with_outputs, main_output
from utils import exit_codes
from utils.errors import UsageError
from utils.tensors import count_labels

OF_THE_PROJECT = ("cross_entropy", "nll_loss", "focal_loss", "dice_loss")  # functions of model/loss.py around torch's
ONE_BY_ONE = ("HingeEmbeddingLoss", "KLDivLoss", "PoissonNLLLoss", "SoftMarginLoss")  # broadcast without a warning
# What a loss is the mean over: a number, None for samples, or "sum" for a loss that is a sum over samples
Weight = float | Tensor | Literal["sum"] | None


class Loss:
    """Calls the criterion of the config; its attributes are those of the criterion.

    A loss states what it is the mean over by `weight_of(targets)`, a function or method that returns a number or a
    tensor []. torch's own cross-entropy and NLL losses, and reduction="sum", are known here. For all others, samples
    are counted. Raises UsageError at the first batch where outputs and targets do not fit.
    """

    def __init__(
        self,
        criterion: Any,
        device: torch.device,
        num_classes: int | None = None,
        mixing: Any = None,
        validates: bool = True,
    ) -> None:
        """num_classes: of the data, where it is known. mixing: the loader's batch_transforms, which may mix labels.
        validates: is the loss computed for validation data, too?"""
        self.criterion = criterion.to(device) if isinstance(criterion, nn.Module) else criterion
        self._weight_of = _weight_of(criterion)
        self._num_classes, self._mixing, self._validates = num_classes, mixing, validates
        self._first = True
        self._of_torch = type(criterion).__module__ == "torch.nn.modules.loss"
        self._name = _name(criterion)

    def __call__(self, outputs: Any, *others: Any, **options: Any) -> Any:
        """others: the targets; a trainer of one's own may give anything else, such as two more outputs of a triplet."""
        if not others and options.keys() == {"targets"}:
            others, options = (options["targets"],), {}
        if len(others) != 1 or options:
            return self.criterion(outputs, *others, **options)
        (targets,) = others
        if self._first:
            self._first = False
            return self._first_call(outputs, targets)
        if isinstance(outputs, Tensor):
            return self.criterion(outputs, targets)
        return self._of_several(outputs, targets)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["criterion"], name)

    def weight(self, targets: Any) -> Weight:
        return None if self._weight_of is None else self._weight_of(targets)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        if isinstance(self.criterion, nn.Module):
            yield from self.criterion.named_parameters()

    def state_dict(self) -> dict[str, Any]:
        return self.criterion.state_dict() if hasattr(self.criterion, "state_dict") else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if hasattr(self.criterion, "load_state_dict"):
            self.criterion.load_state_dict(state)

    def _of_several(self, outputs: Any, targets: Any) -> Any:
        """For a model that returns more than one tensor."""
        if self._of_torch:
            return self.criterion(main_output(outputs), targets)
        return call_with_outputs(self.criterion, outputs, targets)

    def _first_call(self, outputs: Any, targets: Any) -> Any:
        binary = isinstance(self.criterion, (nn.BCELoss, nn.BCEWithLogitsLoss))
        if binary and self._validates and getattr(self._mixing, "mixed", False):
            raise UsageError(
                f"loss: {self._name} takes the probabilities that batch_transforms make of class "
                f"labels, but not the labels of a validation; give cross_entropy, or a data set whose targets are 0 or "
                f"1 for each class"
            )
        if self._of_torch and len(needed := _required(self.criterion.forward)) > 2:
            raise UsageError(
                f"loss: {self._name} takes {', '.join(needed)}, and the trainer gives it outputs and targets; write a "
                f"function (output, target) in model/loss.py that calls it with parts of them"
            )
        if isinstance(targets, Tensor) and isinstance(output := main_output(outputs), Tensor):
            self._check_classes(output, targets)
            if self._name in ONE_BY_ONE and _grows(output.shape, targets.shape):
                raise self._other_shapes(outputs, targets, "would be broadcast against each other")
            if output.requires_grad and output.dim() > 1 and not output.is_meta:
                _check_last_layer(self._name, output[:8].detach().float())
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Using a target size", UserWarning)
            try:
                return self._of_several(outputs, targets)
            except UserWarning as e:
                if not isinstance(targets, Tensor):
                    raise UsageError(f"loss: {e}; give both one shape") from None
                raise self._other_shapes(outputs, targets, "would be broadcast against each other") from None
            except (RuntimeError, ValueError, TypeError, IndexError) as e:
                # binary cross-entropy
                if isinstance(targets, Tensor) and str(e).startswith(("Target size", "Using a target size")):
                    raise self._other_shapes(outputs, targets, "this loss compares one by one") from e
                if is_out_of_memory(e) or "CUDA error" in str(e):  # which may be of a layer before
                    raise
                if self._mixing is not None and self._mixing.mixed:
                    raise UsageError(
                        f"loss: it failed for targets {list(targets.shape)}, the probabilities that batch_transforms "
                        f"make of labels by mixing them: {e}; give a loss that takes them, such as cross_entropy, or "
                        f"mix none"
                    ) from e
                within_torch = "torch" in Path(traceback.extract_tb(e.__traceback__)[-1].filename).parts
                if not within_torch or not (self._of_torch or self._name in OF_THE_PROJECT):
                    raise  # the traceback shows the line of the user's own code
                raise UsageError(self._refused(outputs, targets, e)) from e

    def _refused(self, outputs: Any, targets: Any, error: Exception) -> str:
        """What torch could not compute, of which tensors; the loss's own ones too, such as class weights."""
        own = self.criterion.named_buffers() if isinstance(self.criterion, nn.Module) else ()
        given = {"outputs": main_output(outputs), "targets": targets, **dict(own)}
        shapes = [f"{name} {list(t.shape)} {t.dtype}" for name, t in given.items() if isinstance(t, Tensor)]
        advice = exit_codes.advice(error).rstrip()
        return f"loss: {self._name} failed for {', '.join(shapes).replace('torch.', '')}: {error}{advice}"

    @staticmethod
    def _other_shapes(outputs: Any, targets: Tensor, why: str) -> UsageError:
        shape = list(main_output(outputs).shape)
        advice = "give both one shape, such as outputs.squeeze(1) at the end of the model"
        if len(shape) == 2 and shape[1] > 1 and not targets.is_floating_point():
            advice = "for class labels give cross_entropy, or a data set whose targets are 0 or 1 for each class"
        what = f"the model's outputs are {shape}, the targets {list(targets.shape)}"
        return UsageError(f"loss: {what}, which {why}; {advice}")

    def _check_classes(self, outputs: Tensor, targets: Tensor) -> None:
        """Class labels [B, ...] against outputs [B, classes, ...]: before torch fails, on a GPU without saying why."""
        labels = targets.dtype == torch.long and targets.dim() == outputs.dim() - 1 and targets.numel()
        if not labels or self._weight_of is None or targets.is_meta:  # only of losses that take class labels
            return
        classes, weights = outputs.shape[1], getattr(self.criterion, "weight", None)
        if isinstance(weights, Tensor) and len(weights) != classes:
            raise UsageError(
                f"loss: {self._name} has {len(weights)} class weights, but the model has {classes} outputs; give "
                f"a weight for each class"
            )
        largest = int(targets.masked_fill(targets == _ignored(self.criterion), 0).max())
        if largest >= classes:
            raise UsageError(
                f"loss: the model has {classes} outputs, but the data has a label of {largest}: at least {largest + 1} "
                f"classes; set arch.args.num_classes={max(largest + 1, self._num_classes or 0)}, or check the labels"
            )
        if self._num_classes is not None and classes != self._num_classes:
            log.warning(
                f"the model has {classes} outputs, the data {self._num_classes} classes; arch.args.num_classes="
                f"{self._num_classes} makes them equal"
            )


def _weight_of(criterion: Any) -> Callable[[Any], Weight] | None:
    loss = criterion.func if isinstance(criterion, functools.partial) else criterion
    if (own := getattr(loss, "weight_of", None)) is not None:
        given = getattr(criterion, "keywords", {})
        return functools.partial(own, ignore_index=given["ignore_index"]) if "ignore_index" in given else own
    if getattr(loss, "reduction", "mean") == "sum":
        return lambda targets: "sum"
    if isinstance(loss, (nn.CrossEntropyLoss, nn.NLLLoss)) and loss.reduction == "mean":
        return functools.partial(_labels, loss)
    return None


def _required(function: Callable[..., Any]) -> list[str]:
    """The names of its parameters without a default."""
    return [name for name, p in inspect.signature(function).parameters.items() if p.default is p.empty]


def _grows(a: torch.Size, b: torch.Size) -> bool:
    """Do shapes such as [B, 1] and [B] become [B, B], which is neither of them?"""
    try:
        return torch.broadcast_shapes(a, b) not in (a, b)
    except RuntimeError:  # torch refuses them, too
        return False


def _name(criterion: Any) -> str:
    loss = criterion.func if isinstance(criterion, functools.partial) else criterion
    return getattr(loss, "__name__", type(loss).__name__)


def _check_last_layer(name: str, outputs: Tensor) -> None:
    """Warn of a model that ends with the softmax that its loss applies itself, or lacks the one that it expects."""
    of_logs = name in ("NLLLoss", "nll_loss") or (name == "KLDivLoss" and outputs.dim() == 2)
    if name in ("CrossEntropyLoss", "cross_entropy") and bool((outputs >= 0).all()) and _all_ones(outputs.sum(1)):
        wrong = "look like probabilities, but it applies softmax itself"
        instead = "end the model with its last linear layer"
    elif of_logs and not _all_ones(outputs.exp().sum(1)):
        wrong = "are no log-probabilities, which it expects"
        instead = "end the model with log_softmax(dim=1), or use cross_entropy"
    else:
        return
    log.warning(f"loss {name}: the model's outputs {wrong}; it would learn slowly or not at all: {instead}")


def _all_ones(values: Tensor) -> bool:
    return torch.allclose(values, torch.ones_like(values), atol=1e-2)


def _ignored(criterion: Any) -> int:
    """The label that it ignores: PyTorch's default is -100."""
    given = getattr(criterion, "keywords", {})  # of a function, with arguments of the config
    return given.get("ignore_index", getattr(criterion, "ignore_index", -100))


def _labels(loss: nn.CrossEntropyLoss | nn.NLLLoss, targets: Any) -> Weight:
    """The sum of the class weights of all labels that are not ignored, as torch's documentation has it."""
    if not isinstance(targets, Tensor):
        return None
    if targets.is_floating_point() or loss.weight is None:
        return count_labels(targets, loss.ignore_index)
    kept = targets != loss.ignore_index  # not used as an index, for which the host would wait
    return (loss.weight.detach()[torch.where(kept, targets, 0)] * kept).sum()
