"""Your losses: functions (output, target) -> scalar, the mean over the batch. A config may also name one of `torch.nn`.

The mean of a global step is over all its micro-batches and ranks, each weighted by its number of samples. If a loss
averages over something else, such as the labels that are not ignored, say so in its attribute `weight_of`.
"""

import math  # noqa: F401 (for your code)
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.tensors import count_labels


def nll_loss(output: Tensor, target: Tensor) -> Tensor:
    """Negative log-likelihood of log-probabilities [B, C, ...]; labels of -100 are ignored."""
    return F.nll_loss(output, target)


def cross_entropy(output: Tensor, target: Tensor, label_smoothing: float = 0.0, ignore_index: int = -100) -> Tensor:
    """Cross-entropy of logits [B, C, ...]; labels of `ignore_index` are ignored."""
    if 2 < output.dim() == target.dim() + 1 and torch.are_deterministic_algorithms_enabled():
        # torch adds up pixels in any order on a GPU, but not samples
        output, target = output.movedim(1, -1).flatten(0, -2), target.flatten()
    return F.cross_entropy(output, target, label_smoothing=label_smoothing, ignore_index=ignore_index)


def focal_loss(output: Tensor, target: Tensor, gamma: float = 2.0, ignore_index: int = -100) -> Tensor:
    """Cross-entropy of logits [B, C, ...] where confident answers count less (Lin et al., 2017, arXiv:1708.02002).

    gamma: 0 is cross-entropy. The mean is over all labels but those of `ignore_index`.
    """
    losses = F.cross_entropy(output, target, ignore_index=ignore_index, reduction="none")
    wrong = (1 - (-losses).exp()).clamp(min=torch.finfo(losses.dtype).tiny)  # at 0, its power has no gradient
    return (wrong**gamma * losses).sum() / count_labels(target, ignore_index)


def dice_loss(output: Tensor, target: Tensor, smooth: float = 1.0, ignore_index: int = 255) -> Tensor:
    """1 - the soft Dice coefficient of each image, over its classes (Milletari et al., 2016, arXiv:1606.04797).

    output: logits [B, C, ...]; target: classes [B, ...]; `ignore_index` where a pixel does not count. smooth: added to
    both sides, so that a class that is absent from an image and not predicted counts as found.
    """
    kept = (target != ignore_index)[:, None]
    truth = F.one_hot(target.masked_fill(~kept[:, 0], 0), output.shape[1]).movedim(-1, 1) * kept
    probabilities = output.softmax(dim=1) * kept
    pixels = tuple(range(2, output.dim()))
    overlap = (probabilities * truth).sum(dim=pixels)  # [B, C]
    total = probabilities.sum(dim=pixels) + truth.sum(dim=pixels)
    return 1 - ((2 * overlap + smooth) / (total + smooth)).mean()


class BalancedCrossEntropy(nn.CrossEntropyLoss):
    """Cross-entropy in which rare classes weigh more, by the facts of the data.

    class_counts: the training samples of each class. power: 1 gives every class the same weight in total, 0 is plain
    cross-entropy; between the two, less than that.
    """

    def __init__(self, class_counts: Sequence[int], power: float = 1.0, label_smoothing: float = 0.0):
        counts = torch.tensor(class_counts, dtype=torch.float64).clamp(min=1)
        weights = (counts.sum() / (len(counts) * counts)) ** power
        super().__init__(weight=weights.float(), label_smoothing=label_smoothing)


# The trainer weights micro-batches and ranks by this number, so that their mean is that of the whole step
nll_loss.weight_of = count_labels  # type: ignore[attr-defined]
cross_entropy.weight_of = count_labels  # type: ignore[attr-defined]
focal_loss.weight_of = count_labels  # type: ignore[attr-defined]
