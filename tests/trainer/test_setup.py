"""What setup.tune chooses for a GPU, which is imitated as far as torch lets its switches be set without one."""

import os

import pytest
import torch

from tests.tiny import CONFIG
from trainer import setup
from utils import config as configs

GPU = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def switches(monkeypatch):
    """Put back what the tests switch."""
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = matmul.fp32_precision, conv.fp32_precision, torch.backends.cudnn.benchmark
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    yield
    matmul.fp32_precision, conv.fp32_precision, torch.backends.cudnn.benchmark = before
    torch.use_deterministic_algorithms(False)


def tune(*overrides, device=GPU):
    setup.tune(configs.load([CONFIG], overrides), device)
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]
    return (
        matmul.fp32_precision,
        conv.fp32_precision,
        torch.backends.cudnn.benchmark,
        torch.are_deterministic_algorithms_enabled(),
    )


def test_defaults_are_fast_and_repeatable():
    assert tune() == ("tf32", "tf32", False, False)


def test_each_is_a_key():
    assert tune("trainer.tf32=false") == ("ieee", "ieee", False, False)
    assert tune("trainer.cudnn_benchmark=true") == ("tf32", "tf32", True, False)
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    assert tune("trainer.deterministic=true") == ("tf32", "tf32", False, True)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_the_cpu_is_left_alone():
    before = tune("trainer.tf32=false")
    assert tune("trainer.cudnn_benchmark=true", "trainer.deterministic=true", device=torch.device("cpu")) == before
