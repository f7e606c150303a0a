"""Your metrics: functions (output, target) -> a value per sample [B], averaged over all samples.

They run on the device, without gradients. Do not call `.item()`: every step would wait for the device.
"""

import math  # noqa: F401 (for your code)

import torch  # noqa: F401 (for your code)
import torch.nn.functional as F  # noqa: F401 (for your code)
from torch import Tensor, nn  # noqa: F401 (for your code)

from utils.errors import UsageError


def accuracy(output: Tensor, target: Tensor) -> Tensor:
    """Whether the class of the highest score [B, C] is the target [B]."""
    found = output.argmax(dim=1)
    if found.shape != target.shape:
        raise UsageError(
            f"accuracy: it is for one class per sample [B], and the targets are {list(target.shape)}; of several "
            f"labels per sample, give {{type: Accuracy, args: {{task: multilabel, num_labels: N}}}} of torchmetrics"
        )
    return found == target


def top_k_acc(output: Tensor, target: Tensor, k: int = 3) -> Tensor:
    """Whether the target [B] is among the `k` classes of the highest scores [B, C]."""
    if k > output.shape[1]:
        raise UsageError(f"top_k_acc: k is {k}, but the model has {output.shape[1]} classes; set k to that or less")
    return (output.topk(k, dim=1).indices == target[:, None]).any(dim=1)
