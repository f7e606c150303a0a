"""What a data set states about itself, for the parameters of the same name in model, loss and metrics."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def class_facts(class_names: Sequence[str], labels: Tensor | None = None) -> dict[str, Any]:
    """num_classes, class_names and, from the training labels [N], class_counts."""
    facts: dict[str, Any] = {"num_classes": len(class_names), "class_names": list(class_names)}
    if labels is not None:
        facts["class_counts"] = torch.bincount(labels, minlength=len(class_names)).tolist()
    return facts


def facts_of(dataset: Any) -> dict[str, Any]:
    """The classes of a data set that lists them in `classes`, as torchvision's do; otherwise nothing."""
    classes = getattr(dataset, "classes", None)
    return class_facts([str(name) for name in classes]) if isinstance(classes, list) else {}
