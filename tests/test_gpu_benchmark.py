"""benchmarks/gpu.py, whose figures take a GPU: that it runs."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests import warm

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_every_row_runs() -> None:
    done = warm.run("-m", "benchmarks.gpu", "--smoke", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    assert [row[0] for row in rows] == ["mlp", "mnist", "resnet18", "resnet50", "gpt2", "mnist-resident"]
    assert all(row[-2:] == ["of", "bare"] and float(row[-3]) > 0 for row in rows)


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_without_gpu() -> None:
    done = subprocess.run([sys.executable, "-m", "benchmarks.gpu", "gpt2"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "no CUDA GPU here: nothing was measured" in done.stderr
