"""On a GPU, where there is one, what other tests show on the CPU; those do not see it (conftest.py)."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

ENV = {"CUDA_VISIBLE_DEVICES": os.environ["GPUS_OF_TESTS"]}
pytestmark = pytest.mark.skipif(
    not shutil.which("nvidia-smi") or not ENV["CUDA_VISIBLE_DEVICES"], reason="needs a GPU of NVIDIA"
)
ROOT = Path(__file__).resolve().parent.parent
TRAIN = str(ROOT / "train.py")
DIGITS = ["-c", str(ROOT / "config/digits.yaml"), "name=gpu", "trainer.tensorboard=false"]
SHORT = [*DIGITS, "trainer.epochs=3", "trainer.save_steps=5", "trainer.log_steps=5"]
RESNET = "arch={type: SmallResNet, args: {in_channels: 1}}"
LIMITED = """
import runpy, sys, torch
torch.cuda.set_per_process_memory_fraction(300e6 / torch.cuda.get_device_properties(0).total_memory)
sys.argv.pop(0)
sys.path.insert(0, sys.argv[0].removesuffix("train.py"))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def tensors(value: Any, path: str = "") -> dict[str, torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return {path: value}
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {name: t for key, part in items for name, t in tensors(part, f"{path}/{key}").items()}
    return {}


def end(run: Path) -> dict[str, torch.Tensor]:
    """All tensors of the last checkpoint."""
    files = list((run / "checkpoints").glob("checkpoint-step*.pth"))
    last = max(files, key=lambda file: int(re.findall(r"\d+", file.stem)[-1]))
    return tensors(torch.load(last, map_location="cpu", weights_only=True))


def differing(one: Path, other: Path) -> list[str]:
    a, b = end(one), end(other)
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]


@pytest.mark.parametrize(
    "keys",
    [
        [],
        ["trainer.precision=bf16", "trainer.channels_last=true", RESNET],
        ["trainer.precision=fp16", "trainer.accumulate=2", "trainer.clip_grad_norm=1.0"],
        ["optimizer={type: MuonAdamW, args: {lr: 0.01}}", "callbacks=[EMA, LayerStatistics, GPUMemory]"],
        ["data_loader.args.num_workers=2", RESNET],
        pytest.param(["trainer.compile=true"], marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_ends_alike(run: Any, tmp_path: Path, keys: list[str]) -> None:
    done = run(TRAIN, *SHORT, *keys, "--run-id", "whole", env=ENV)
    assert done.returncode == 0, done.stderr
    command = [sys.executable, TRAIN, *SHORT, *keys, "--run-id", "killed"]
    killed = tmp_path / "saved/gpu/killed"
    child = subprocess.Popen(command, cwd=tmp_path, env={**os.environ, **ENV}, stdout=subprocess.DEVNULL)
    while child.poll() is None and len(list(killed.glob("checkpoints/checkpoint-step*.pth"))) < 2:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL, "it had ended before"
    done = run(TRAIN, "-r", killed, env=ENV)
    assert done.returncode == 0, done.stderr
    assert differing(killed.with_name("whole"), killed) == []


def test_workers_and_torchrun_change_nothing(run: Any, tmp_path: Path) -> None:
    for workers in 0, 1, 2:
        done = run(TRAIN, *SHORT, f"data_loader.args.num_workers={workers}", "--run-id", workers, env=ENV)
        assert done.returncode == 0, done.stderr
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1", TRAIN]
    env = {**os.environ, **ENV}
    subprocess.run([*torchrun, *SHORT, "--run-id", "ranks"], cwd=tmp_path, env=env, check=True, capture_output=True)
    runs = tmp_path / "saved/gpu"
    assert [differing(runs / "0", runs / other) for other in ("1", "2", "ranks")] == [[], [], []]


def test_out_of_memory_is_accumulation_from_the_start(run: Any, tmp_path: Path) -> None:
    (tmp_path / "limited.py").write_text(LIMITED)
    keys = [*DIGITS, RESNET, "trainer.epochs=2", "data_loader.args.batch_size=1000", "optimizer=SGD"]
    done = run(tmp_path / "limited.py", TRAIN, *keys, "--run-id", "redone", env=ENV)
    assert done.returncode == 0, done.stderr
    found = re.findall(r"out of memory in step (\d+): running it again in (\d+) micro-batches", done.stderr)
    assert {step for step, _ in found} == {"1"}
    keys.append(f"trainer.accumulate={found[-1][1]}")
    done = run(
        tmp_path / "limited.py", TRAIN, *keys, "--run-id", "from-the-start", env=ENV
    )  # cuDNN sees as little memory
    assert done.returncode == 0, done.stderr
    assert differing(tmp_path / "saved/gpu/redone", tmp_path / "saved/gpu/from-the-start") == []


def test_pixels_are_exact_where_asked_for(run: Any, tmp_path: Path) -> None:
    from data_loader.engine.images import draw_shapes

    draw_shapes.write(tmp_path / "shapes", {"train": 48, "val": 16})
    keys = ["-c", ROOT / "config/segmentation.yaml", "data_loader.args.data_dir=shapes", "trainer.epochs=2"]
    for name in "one", "two":
        done = run(TRAIN, *keys, "name=gpu", "--run-id", name, env=ENV)
        assert done.returncode == 0, done.stderr
    assert differing(tmp_path / "saved/gpu/one", tmp_path / "saved/gpu/two") == []


def test_the_checkpoint_is_one_for_the_cpu_too(run: Any, tmp_path: Path) -> None:
    assert run(TRAIN, *SHORT, "--run-id", "r", env=ENV).returncode == 0
    run_folder = tmp_path / "saved/gpu/r"
    values = []
    for device in "0", "cpu":
        done = run("test.py", "-r", run_folder, "-d", device, env=ENV)
        assert done.returncode == 0, done.stderr
        values.append([float(found) for found in re.findall(r"(?:loss|accuracy) +([\d.]+)", done.stdout)])
    assert len(values[0]) == 2
    assert values[0] == pytest.approx(values[1], rel=1e-2)
    done = run(TRAIN, "-r", run_folder, "-d", "cpu", "trainer.epochs=4", env=ENV)
    assert done.returncode == 0, done.stderr
    assert "device: cuda -> cpu; not bit-exact from here on" in done.stdout + done.stderr


def test_a_check_passes(run: Any) -> None:
    done = run(TRAIN, *SHORT, "--check", env=ENV)
    assert "a resume is bit-equal" in done.stdout
    assert done.returncode == 0, done.stderr


def test_more_processes_than_gpus(tmp_path: Path) -> None:
    count = len(subprocess.run(["nvidia-smi", "-L"], check=True, capture_output=True).stdout.splitlines())
    env = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count + 1}", TRAIN]
    done = subprocess.run([*torchrun, *SHORT], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 1  # torchrun's
    assert f"error: torchrun started {count + 1} processes on this machine" in done.stderr
