"""From one command to the processes: a device each, srun's variables, torchrun's restarts."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from utils.errors import UsageError
from utils.process import launch

ROOT = Path(__file__).resolve().parents[3]
QUICK = ["trainer.max_steps=30", "trainer.save_steps=5", "trainer.tensorboard=false", "--run-id", "r"]


@pytest.fixture
def gpus(monkeypatch):
    """A machine with so many GPUs."""

    def gpus(count):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)  # conftest.py hides them
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("cuda"))
        monkeypatch.setattr(torch.accelerator, "device_count", lambda: count)
        monkeypatch.setattr(torch.accelerator, "set_device_index", lambda index: None)

    return gpus


@pytest.mark.parametrize(
    "n_gpu, given, there, expected, warning",
    [
        (1, None, 2, ["cuda:0"], None),
        (2, None, 2, ["cuda:0", "cuda:1"], None),
        ("auto", None, 3, ["cuda:0", "cuda:1", "cuda:2"], None),
        (4, None, 2, ["cuda:0", "cuda:1"], "n_gpu: 4 was given, but this machine has 2: using 2"),
        (0, None, 2, ["cpu"], None),
        (1, "1,3", 4, ["cuda:1", "cuda:3"], None),
        (1, "cpu,cpu", 4, ["cpu", "cpu"], None),
    ],
)
def test_devices(gpus, n_gpu, given, there, expected, warning):
    gpus(there)
    devices, warned = launch.devices(n_gpu, given)
    assert ([str(d) for d in devices], warned) == (expected, warning)


@pytest.mark.parametrize("given", ["0,0", "a", "0,,1", "-1", "cpu,0", "2"])
def test_wrong_devices(gpus, given):
    gpus(2)
    with pytest.raises(UsageError, match=f"-d {given}: "):
        launch.devices(1, given)


def test_without_gpu(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("mps"))  # hidden like CUDA's
    assert launch.devices("auto", None) == ([torch.device("cpu")], None)
    assert launch.devices(2, None)[1] == "n_gpu: 2 was given, but torch finds no GPU on this machine: using the CPU"


def test_a_launcher_chooses_the_number(gpus, monkeypatch):
    gpus(4)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert str(launch.device(1, None)[0]) == "cuda:3"


def test_more_processes_than_gpus(gpus, monkeypatch):
    """Two on one GPU end in NCCL's error, after all else has been set up."""
    gpus(1)
    for name, value in {"RANK": 1, "WORLD_SIZE": 2, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(UsageError, match=r"2 processes on .*, for 1 GPU, .*--nproc_per_node=1, or n_gpu=0"):
        launch.needed(1, None)  # which is asked first, before the processes join
    assert str(launch.device(0, None)[0]) == "cpu"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")  # of this process alone
    assert str(launch.device(1, None)[0]) == "cuda:0"


@pytest.mark.parametrize(
    "nodes, host", [("gpu[03-07,11]", "gpu03"), ("a1,b2", "a1"), ("n[8],m3", "n8"), ("big-node.lan", "big-node.lan")]
)
def test_srun(nodes, host):
    task = {"SLURM_JOB_ID": "123", "SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": nodes}
    task |= {"SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "8"}
    expected = {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "MASTER_ADDR": host, "MASTER_PORT": "20861"}
    assert launch.slurm(task) == expected


def weights(folder):
    state = torch.load(folder / "saved/digits/r/checkpoints/checkpoint-step30.pth", weights_only=True)
    return {k: v.numpy() for k, v in state["model"].items()}


def environment(**more):
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """A folder with a run of two processes, and what it printed."""
    folder = tmp_path_factory.mktemp("calm")
    command = [sys.executable, f"{ROOT}/train.py", "-c", f"{ROOT}/config/digits.yaml", "-d", "cpu,cpu", *QUICK]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


@pytest.mark.slow
def test_one_command_starts_processes(calm):
    folder, output = calm
    assert output.count("finished at step 30") == 1
    assert weights(folder)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="for Linux")
def test_ranks_end_with_their_launcher(tmp_path):
    """Whatever they are doing: here they are stopped, so that no watchdog of theirs could see to it."""
    command = [sys.executable, f"{ROOT}/train.py", "-c", f"{ROOT}/config/digits.yaml", "-d", "cpu,cpu"]
    command += ["trainer.max_steps=100000", "trainer.epochs=null", "--run-id", "r"]
    launcher = subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL)
    try:
        log = tmp_path / "saved/digits/r/log.txt"
        until(lambda: log.exists() and "step" in log.read_text())
        children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
        ranks = [int(pid) for pid in children if b"train.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        assert len(ranks) == 2
        for pid in ranks:
            os.kill(pid, signal.SIGSTOP)
    finally:
        launcher.kill()
        launcher.wait()
    until(lambda: not any(map(running, ranks)))


def until(what, seconds=300):
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def running(pid):
    """And not a zombie that nobody has waited for."""
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


@pytest.mark.slow
def test_srun_joins(tmp_path):
    """Two processes as srun would start them: nothing but its variables."""
    task = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": "127.0.0.1"}
    task["SLURM_STEP_NUM_TASKS"] = "2"
    command = [sys.executable, f"{ROOT}/train.py", "-c", f"{ROOT}/config/digits.yaml", *QUICK]
    tasks = [
        subprocess.Popen(command, cwd=tmp_path, env=environment(**task, SLURM_PROCID=rank, SLURM_LOCALID=rank))
        for rank in ("0", "1")
    ]
    assert [t.wait(300) for t in tasks] == [0, 0]
    assert [p.name for p in (tmp_path / "saved/digits").iterdir()] == ["r"]


CRASH = """
import os, signal, sys
sys.path.insert(0, {root!r})
import train
from trainer.engine.base_trainer import BaseTrainer
from utils.exit_codes import exit_with
attempt, run_step = int(os.environ["TORCHELASTIC_RESTART_COUNT"]), BaseTrainer.run_step
def step(self, stream, log_due):
    if self.step == 7 * (attempt + 1) and self.rank == attempt % 2 and attempt < 2:
        self.saving.wait()  # else the checkpoint of the step before may not be whole yet
        os.kill(os.getpid(), signal.SIGKILL)
    return run_step(self, stream, log_due)
BaseTrainer.run_step = step
exit_with(train.main)
"""


@pytest.mark.slow
def test_torchrun_restarts_continue(calm, tmp_path):
    """Ranks are killed, the first one too, in two attempts; the third ends with the weights of a calm run."""
    (tmp_path / "crash.py").write_text(CRASH.format(root=str(ROOT)))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "2"]
    (tmp_path / "stormy").mkdir()
    command = [*torchrun, "../crash.py", "-c", f"{ROOT}/config/digits.yaml", *QUICK]
    done = subprocess.run(command, cwd=tmp_path / "stormy", env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    log = (tmp_path / "stormy/saved/digits/r/log.txt").read_text()
    assert [log.count(f"continuing in saved/digits/r from step {n}") for n in (5, 10)] == [1, 1]
    one, two = weights(calm[0]), weights(tmp_path / "stormy")
    assert all(np.array_equal(one[k], two[k]) for k in one)
    folders = (calm[0], tmp_path / "stormy")
    points = [(folder / "saved/digits/r/metrics.jsonl").read_text().splitlines() for folder in folders]
    assert [json.loads(line) for line in points[0]] == [json.loads(line) for line in points[1]]
