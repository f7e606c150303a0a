"""Your losses: functions (output, target) -> scalar, the mean over the batch. A config may also name one of `torch.nn`.

The mean of a global step is over all its micro-batches and ranks, each weighted by its number of samples. If a loss
averages over something else, such as the labels that are not ignored, say so in its attribute `weight_of`.
"""

import math  # noqa: F401 (for your code)

import torch  # noqa: F401 (for your code)
import torch.nn.functional as F
from torch import Tensor, nn  # noqa: F401 (for your code)

from utils.tensors import count_labels


def nll_loss(output: Tensor, target: Tensor) -> Tensor:
    """Negative log-likelihood of log-probabilities [B, C, ...]; labels of -100 are ignored."""
    return F.nll_loss(output, target)


def cross_entropy(output: Tensor, target: Tensor, label_smoothing: float = 0.0, ignore_index: int = -100) -> Tensor:
    """Cross-entropy of logits [B, C, ...]; labels of `ignore_index` are ignored."""
    return F.cross_entropy(output, target, label_smoothing=label_smoothing, ignore_index=ignore_index)


# The trainer weights micro-batches and ranks by this number, so that their mean is that of the whole step
nll_loss.weight_of = count_labels  # type: ignore[attr-defined]
cross_entropy.weight_of = count_labels  # type: ignore[attr-defined]
