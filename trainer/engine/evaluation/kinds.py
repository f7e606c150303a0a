"""What a model's outputs are: logits, log-probabilities, probabilities or values. The one place that decides it."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from utils.errors import UsageError

Name = Literal["logits", "log-probabilities", "probabilities", "logits per label", "probabilities per label", "values"]
VALUES: list[str] = [
    "MSELoss", "mse_loss", "L1Loss", "l1_loss", "SmoothL1Loss", "smooth_l1_loss", "HuberLoss", "huber_loss",
    "PoissonNLLLoss",
]  # fmt: skip
OF_LOSS: dict[str, Name] = {
    **dict.fromkeys(VALUES, "values"),
    "cross_entropy": "logits",
    "CrossEntropyLoss": "logits",
    "MultiMarginLoss": "logits",
    "nll_loss": "log-probabilities",
    "NLLLoss": "log-probabilities",
    "BCEWithLogitsLoss": "logits per label",
    "binary_cross_entropy_with_logits": "logits per label",
    "MultiLabelSoftMarginLoss": "logits per label",
    "SoftMarginLoss": "logits per label",
    "BCELoss": "probabilities per label",
    "binary_cross_entropy": "probabilities per label",
}
NEAR = 1e-3  # of 1, for the sum of a row of probabilities; those in 16 bits are no nearer


class Kind(NamedTuple):
    name: Name
    why: str  # for people

    def __str__(self) -> str:
        return f"{self.name} ({self.why})"


def task_of(kind: Name) -> Literal["classes", "labels", "values"]:
    """classes: one for each sample. labels: any number of them."""
    if kind == "values":
        return "values"
    return "labels" if kind.endswith("per label") else "classes"


def kind_of(loss: str, outputs: Tensor, num_classes: int | None) -> Kind:
    """By the loss of the config, and by a look at the outputs of a batch: [B], [B, C], or [B, C, H, W] of each pixel.

    num_classes: of the data. Raises UsageError for outputs of any other shape.
    """
    if outputs.dim() not in (1, 2, 4):
        raise UsageError(
            f"the outputs of the model are {list(outputs.shape)} for a batch of {len(outputs)}; predictions are one "
            f"row for each sample, [B] or [B, C], or one mask for each image, [B, C, H, W]. Call load_model(RUN) from "
            f"Python for others"
        )
    known = OF_LOSS.get(loss)
    by_look = _by_look(outputs)
    if known in ("logits", "log-probabilities"):
        if by_look == "probabilities":
            return Kind(by_look, f"each row adds up to 1, though loss: {loss} takes {known}")
        if known == "log-probabilities" and by_look is None:
            return Kind("logits", f"though loss: {loss} takes log-probabilities, which these are not")
        return Kind(known, f"loss: {loss}")
    if known is not None:
        return Kind(known, f"loss: {loss}")
    if by_look is not None:
        return Kind(by_look, "each row adds up to 1" + (", as e to its power" if by_look != "probabilities" else ""))
    if num_classes and outputs.dim() > 1 and outputs.shape[1] == num_classes:
        return Kind("logits", f"one for each of {num_classes} classes; loss: {loss} does not say")
    return Kind("values", f"loss: {loss} does not say, and there are no classes")


def _by_look(outputs: Tensor) -> Name | None:
    """Probabilities and log-probabilities [B, C, ...] can be seen; None for anything else."""
    if outputs.dim() < 2 or outputs.shape[1] < 2:
        return None
    x = _precise(outputs)
    if bool((x >= 0).all()) and bool(((x.sum(dim=1) - 1).abs() < NEAR).all()):
        return "probabilities"
    if bool((x <= 0).all()) and bool(((x.exp().sum(dim=1) - 1).abs() < NEAR).all()):
        return "log-probabilities"
    return None


def _precise(outputs: Tensor) -> Tensor:
    """float64 for rows on the CPU; else float32: pixels are many, GPUs are slow at more, and MPS has no more."""
    return outputs.double() if outputs.device.type == "cpu" and outputs.dim() <= 2 else outputs.float()


def probabilities(kind: Name, outputs: Tensor) -> Tensor:
    """Of the same shape, as precise as the device has it at no cost; values stay as they are."""
    x = _precise(outputs)
    if kind == "logits":
        return x.softmax(dim=1)
    if kind == "log-probabilities":
        return x.exp()
    return x.sigmoid() if kind == "logits per label" else x


def average(kind: Name, each: list[Tensor], weights: list[float], of_logits: bool) -> Tensor:
    """The weighted mean of probabilities (or values); or of their logits, as probabilities. weights: sum to 1."""
    if not of_logits or kind == "values":
        return sum(x * weight for x, weight in zip(each, weights, strict=True))  # type: ignore[return-value]
    numbers = torch.finfo(each[0].dtype)
    if task_of(kind) == "labels":
        return sum(x.logit(max(1e-12, numbers.eps)) * w for x, w in zip(each, weights, strict=True)).sigmoid()  # type: ignore[union-attr]
    return sum(x.clamp(min=numbers.tiny).log() * w for x, w in zip(each, weights, strict=True)).softmax(dim=1)  # type: ignore[union-attr]
