"""Metrics: values per sample."""

import pytest
import torch

from model.metric import accuracy, top_k_acc
from utils.errors import UsageError


def test_metrics_are_values_per_sample() -> None:
    scores = torch.tensor([[0.1, 0.5, 0.4, 0.0], [0.9, 0.05, 0.03, 0.02]])
    target = torch.tensor([2, 3])
    assert accuracy(scores, target).tolist() == [False, False]
    assert accuracy(scores, torch.tensor([1, 0])).tolist() == [True, True]
    assert top_k_acc(scores, target, k=2).tolist() == [True, False]
    assert top_k_acc(scores, target, k=4).tolist() == [True, True]
    with pytest.raises(UsageError, match="top_k_acc: k is 5, but the model has 4 classes; set k to that or less"):
        top_k_acc(scores, target, k=5)
    with pytest.raises(UsageError, match=r"accuracy: .* the targets are \[2, 4\]; of several labels per sample, give"):
        accuracy(scores, torch.zeros(2, 4))
