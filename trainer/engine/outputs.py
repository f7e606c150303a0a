"""The one tensor that losses and metrics compare with the targets, of a model that returns more than that."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

FIELDS = ("logits", "out", "output", "prediction", "predictions")  # Hugging Face's, torchvision's, and common ones


def main_output(outputs: Any) -> Any:
    """`logits` or the like of a dict, named tuple or dataclass; otherwise its first entry. A tensor is itself."""
    if isinstance(outputs, Tensor):
        return outputs
    if isinstance(outputs, Mapping):
        name = next((name for name in FIELDS if name in outputs), None)
        return outputs[name] if name else next(iter(outputs.values()))
    for name in FIELDS:
        if isinstance(getattr(outputs, name, None), Tensor):
            return getattr(outputs, name)
    if isinstance(outputs, (list, tuple)):
        return outputs[0]
    fields = getattr(outputs, "__dict__", {})  # None has none: of a forward without `return`
    return next((value for value in fields.values() if isinstance(value, Tensor)), outputs)


def call_with_outputs(function: Any, outputs: Any, targets: Any) -> Any:
    """function(outputs, targets); where it cannot take a tuple or dict of outputs, of the main one."""
    if isinstance(outputs, Tensor):
        return function(outputs, targets)
    try:
        return function(outputs, targets)
    except (TypeError, AttributeError):
        return function(main_output(outputs), targets)
