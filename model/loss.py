"""The losses of this project: functions (output, target) -> scalar, the mean over the batch.

A config may also name any loss of `torch.nn`, as `CrossEntropyLoss`.
"""

import torch.nn.functional as F
from torch import Tensor


def nll_loss(output: Tensor, target: Tensor) -> Tensor:
    """Negative log-likelihood of log-probabilities [B, classes]."""
    return F.nll_loss(output, target)


def cross_entropy(output: Tensor, target: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of logits [B, classes]."""
    return F.cross_entropy(output, target, label_smoothing=label_smoothing)
