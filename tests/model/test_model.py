"""Your models, and the examples in model.py."""

import importlib
import math

import pytest
import torch

from model.model import MLP, MnistModel
from utils.tensors import count_parameters


def test_mnist_model_is_that_of_the_2020_template() -> None:
    model = MnistModel()
    assert count_parameters(model) == 21_840
    log_p = model(torch.randn(3, 1, 28, 28))
    assert log_p.shape == (3, 10)
    torch.testing.assert_close(log_p.exp().sum(1), torch.ones(3))
    assert list(model.state_dict())[:2] == ["conv1.weight", "conv1.bias"]  # its checkpoints' keys


def test_mlp_takes_any_shape() -> None:
    model = MLP(12, hidden=(8, 6), num_classes=3)
    assert count_parameters(model) == 12 * 8 + 8 + 8 * 6 + 6 + 6 * 3 + 3
    assert model(torch.randn(2, 3, 2, 2)).shape == (2, 3)


@pytest.mark.parametrize("module", ["model.model", "model.loss", "model.metric"])
def test_a_pasted_layer_finds_its_imports(module: str) -> None:
    pasted = "def pasted(x): return F.relu(torch.ones(1)) * math.pi, nn.Linear(1, 1), Tensor"
    names = dict(vars(importlib.import_module(module)))
    exec(pasted, names)
    assert names["pasted"](0)[0].item() == pytest.approx(math.pi)
