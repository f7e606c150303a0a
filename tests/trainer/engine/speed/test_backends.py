"""What backends.choose sets for a GPU, which is imitated as far as torch lets its switches be set without one."""

import os

import pytest
import torch

from tests.tiny import CONFIG
from trainer.engine.speed import backends
from utils import config as configs

GPU = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def switches(monkeypatch):
    """Put back what the tests switch."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    switches = [(matmul, "allow_tf32"), (cudnn, "allow_tf32"), (cudnn, "benchmark"), (cudnn, "deterministic")]
    switches += [(matmul, "fp32_precision"), (cudnn.conv, "fp32_precision"), (cudnn.rnn, "fp32_precision")]  # type: ignore[attr-defined]
    before = [getattr(owner, name) for owner, name in switches]
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    yield
    for (owner, name), value in zip(switches, before, strict=True):
        setattr(owner, name, value)
    torch.use_deterministic_algorithms(False)


def chosen(*overrides, device=GPU):
    backends.choose(configs.load([CONFIG], overrides).run.trainer, device)
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]
    return (
        matmul.fp32_precision,
        conv.fp32_precision,
        (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        torch.are_deterministic_algorithms_enabled(),
    )


def test_defaults_are_fast_and_repeatable():
    assert chosen() == ("tf32", "tf32", (False, True), False)


@pytest.mark.parametrize("on", [True, False])
def test_old_and_new_switches_agree(on):
    """torch raises where one reads them and they do not; torch.compile of 2.10 reads the old ones."""
    backends.tf32(on)
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    assert [matmul.allow_tf32, cudnn.allow_tf32] == [on, on]
    new = [matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision]  # type: ignore[attr-defined]
    assert new == ["tf32" if on else "ieee"] * 3


def test_each_is_a_key():
    assert chosen("trainer.tf32=false") == ("ieee", "ieee", (False, True), False)
    assert chosen("trainer.cudnn_benchmark=true") == ("tf32", "tf32", (True, False), False)
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    assert chosen("trainer.deterministic=true") == ("tf32", "tf32", (False, True), True)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_exact_ranks_compute_with_one_thread_on_a_cpu():
    """Each rank has its share of the cores, and the number of threads decides how sums are rounded."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with backends.restored():
            chosen(device=torch.device("cpu"))
            assert torch.get_num_threads() == 2
            chosen("trainer.exact_ranks=true", device=torch.device("cpu"))
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_cpu_is_left_alone():
    before = chosen("trainer.tf32=false")
    assert chosen("trainer.cudnn_benchmark=true", "trainer.deterministic=true", device=torch.device("cpu")) == before
