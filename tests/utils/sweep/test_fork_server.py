"""Trials that a fork server starts, as on GPUs: the same bits, and whatever is killed, none is lost."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.sweep import ROOT, STARTED
from tests.sweeps import Sweeps, tiny
from tests.trainer.checkpoint.harness import same_end, workers_of

ARGS = ["-c", "c.yaml", "--sweep-id", "s", "seed=1..3"]


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + 120
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def start(house: Sweeps, *args: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", STARTED.replace("START", "forkserver"), *args]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=house.folder, env=env, stdout=subprocess.DEVNULL)


def server_of(process: "subprocess.Popen[bytes]") -> int:
    """The process that its trials are forked from."""
    found = [pid for pid in workers_of(process.pid) if "forkserver" in Path(f"/proc/{pid}/cmdline").read_text()]
    assert len(found) == 1
    return found[0]


def has_begun(house: Sweeps, number: int) -> bool:
    return bool(list((house.path / f"{number:03}/checkpoints").glob("*.pth")))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no fork server, or no /proc")
def test_kills(tmp_path: Path) -> None:
    """Of the server, which the sweep starts again; of the sweep, with which the trial ends, saved."""
    spec = tiny(trainer__monitor="min val_loss", trainer__epochs=100, trainer__save_period=5)
    house, whole = Sweeps(tmp_path / "house", spec), Sweeps(tmp_path / "whole", spec)
    process = start(house, *ARGS)
    until(lambda: has_begun(house, 0))
    os.kill(server_of(process), signal.SIGKILL)
    until(lambda: has_begun(house, 1))  # trial 0 may still save its state, and is to be continued later
    server = server_of(process)
    (trial,) = workers_of(server)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in (server, trial)))
    assert not all(trial.finished for trial in house.trials())
    assert start(house, "-r", "saved/t/s").wait() == 0

    whole.sweep(*ARGS)
    assert house.rows() == whole.rows()
    for number in range(3):
        same_end(house.run_of(number), whole.run_of(number))
    assert "from step" in (house.path / "000/log.txt").read_text()
