"""test.py over several processes: each sample once, one report, one line."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trainer.parallel.ranks import on_ranks, trained

ROOT = Path(__file__).resolve().parents[3]


def evaluated(run):
    """test.py, as on a rank that a launcher has started."""
    runpy.run_path(str(ROOT / "test.py"))["main"](["-r", str(run)])


def points(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["split"] == "test"]


EXACT = pytest.param(["trainer.exact_ranks=true", "trainer.accumulate=2"], marks=pytest.mark.slow)


@pytest.mark.parametrize("keys", [[], EXACT])
def test_equals_one_process(tmp_path, keys):
    """297 samples in batches of 50 or 49, unequal on the ranks; how the training cut its steps does not matter."""
    assert [type(found) for found in on_ranks(2, trained, keys, tmp_path)] == [dict, dict]
    for world in (1, 2, 3):
        assert on_ranks(world, evaluated, tmp_path / "run") == [None] * world
    one, *others = points(tmp_path / "run")
    assert len(others) == 2
    for other in others:
        assert other == one | {"loss": pytest.approx(one["loss"], abs=1e-6)}


@pytest.mark.slow
def test_one_command(run, tmp_path):
    quick = ["trainer.max_steps=10", "trainer.tensorboard=false", "--run-id", "r"]
    assert run("train.py", "-c", ROOT / "config/digits.yaml", *quick).returncode == 0
    folder = tmp_path / "saved/digits/r"
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node=2"]
    for launcher, devices in (([], []), ([], ["-d", "cpu,cpu"]), (torchrun, [])):
        done = subprocess.run(
            [sys.executable, *launcher, ROOT / "test.py", "-r", folder, *devices],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("test samples") == 1
    one, two, three = points(folder)
    assert two == three == one | {"loss": pytest.approx(one["loss"], abs=1e-6)}
