"""Models for tables: shapes, embeddings, and unknown categories."""

import torch

from model.tabular import TabularMLP


def test_classification_and_regression() -> None:
    x = torch.tensor([[0.5, -1.0, 1.0, 3.0], [0.0, 2.0, 2.0, 0.0]])
    model = TabularMLP(num_numbers=2, category_sizes=[2, 3], num_classes=5)
    assert model(x).shape == (2, 5)
    model = TabularMLP(2, [2, 3], target_mean=100.0, target_std=10.0)
    with torch.no_grad():
        for parameter in model.layers[-1].parameters():
            parameter.zero_()
    assert model(x).tolist() == [100.0, 100.0]


def test_numbers_alone_and_categories_alone() -> None:
    assert TabularMLP(3, num_classes=2)(torch.randn(4, 3)).shape == (4, 2)
    assert TabularMLP(0, [7], num_classes=2, hidden=())(torch.tensor([[1.0], [7.0]])).shape == (2, 2)


def test_an_unknown_category_adds_nothing() -> None:
    """It was never trained: its embedding is zero, and stays so."""
    model = TabularMLP(1, [4], num_classes=2)
    weight = next(model.embeddings.parameters())
    model(torch.tensor([[1.0, 0.0], [1.0, 2.0]])).sum().backward()
    assert weight[0].tolist() == [0.0] * weight.shape[1]
    assert weight.grad is not None
    assert weight.grad.abs().sum(dim=1).gt(0).tolist() == [False, False, True, False, False]
