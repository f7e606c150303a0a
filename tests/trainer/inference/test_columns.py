"""The rows of the table, for one class, several labels, one of two, and numbers."""

from typing import Any

import pytest
import torch

from trainer.inference.columns import Columns
from trainer.inference.weights import fitted
from utils.errors import UsageError


def rows(
    kind: Any, outputs: torch.Tensor, names: list[str] | None, wanted: list[str] | None, prob: bool = False
) -> Any:
    width = outputs.shape[1] if outputs.dim() == 2 else 0
    columns = Columns(wanted, prob, kind, names, width, {"room": ["a", "b"]})
    return [columns.header, *columns.rows([0, 1], ["x", "y"], outputs.double())]


def test_one_class() -> None:
    outputs = torch.tensor([[0.25, 0.75], [0.5, 0.5]])
    assert rows("logits", outputs, ["cat", "dog"], None, prob=True) == [
        ["id", "label", "prob_cat", "prob_dog"], ["x", "dog", "0.25", "0.75"], ["y", "cat", "0.5", "0.5"],
    ]  # fmt: skip
    assert rows("logits", outputs, ["cat", "dog"], ["label"], prob=True)[0] == ["label", "prob_cat", "prob_dog"]
    assert rows("logits", outputs, None, ["id", "label", "index", "output_1"])[1] == ["x", "output_1", "1", "0.75"]


def test_several_labels_and_one_of_two() -> None:
    outputs = torch.tensor([[0.9, 0.1, 0.5], [0.2, 0.1, 0.3]])
    found = rows("logits per label", outputs, ["a", "b", "c"], ["id", "label", "index", "b", "room"])
    assert found[1:] == [["x", "a c", "0 2", "0.1", "a"], ["y", "", "", "0.1", "b"]]
    found = rows("logits per label", torch.tensor([0.75, 0.25]), ["no", "yes"], ["label", "prob", "no", "yes"])
    assert found[1:] == [["yes", "0.75", "0.25", "0.75"], ["no", "0.75", "0.75", "0.25"]]


def test_numbers() -> None:
    assert rows("values", torch.tensor([1.5, -2.0]), None, None)[1:] == [["x", "1.5"], ["y", "-2"]]
    outputs = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert rows("values", outputs, ["height", "width"], None) == [
        ["id", "height", "width"], ["x", "1", "2"], ["y", "3", "4"],
    ]  # fmt: skip
    with pytest.raises(UsageError, match="unknown column 'prob'; there are room, height, width, id, label"):
        rows("values", outputs, ["height", "width"], ["prob"])
    with pytest.raises(UsageError, match="unknown column ''"):
        rows("values", outputs, ["height", "width"], [])


def test_fitted_weights_have_the_highest_likelihood() -> None:
    draws = torch.Generator().manual_seed(0)
    one, two = (torch.rand(200, generator=draws, dtype=torch.float64) for _ in range(2))
    grid = torch.linspace(0, 1, 10001, dtype=torch.float64)
    best = grid[(grid[:, None] * one + (1 - grid[:, None]) * two).log().mean(dim=1).argmax()].item()
    assert 0 < best < 1
    assert fitted([one, two]) == pytest.approx([best, 1 - best], abs=2e-3)
