"""SIGTERM, SIGINT, SIGUSR1: the step is finished, the state saved, the way on reported; workers never stay behind."""

import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from data_loader.engine.workers import _start_worker
from tests.trainer.checkpoint.harness import (
    STEPS,
    Child,
    House,
    alive,
    at_step,
    before,
    config,
    held,
    same_end,
    together,
    workers_of,
)
from trainer.engine.base_trainer import BaseTrainer
from trainer.trainer import Trainer
from utils.signals import StopSignal

REPORTED = r"stopped by a signal.* after step 9/18; saved. Continue.*: python train.py -r saved/t/r"
CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGUSR1: 143}


def raised(number: int) -> Any:
    return lambda *_: os.kill(os.getpid(), number)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> House:
    house = House(tmp_path_factory.mktemp("whole"), config())
    house.train()
    return house


def goes_on(house: House, whole: House, *args: str) -> None:
    house.train(*args)
    same_end(house, whole, but=("config",))


@pytest.mark.parametrize("number", CODES)
def test_step_is_finished_and_saved(number: int, house: House, whole: House) -> None:
    result = house.train(patch=at_step(8, raised(number)), code=CODES[signal.Signals(number)])
    [reported] = [line for line in result.lines if "stopped" in line]
    assert re.fullmatch(REPORTED, reported)
    assert house.steps[0] == 9
    assert (house.run / "log.txt").read_text().endswith(f"{reported}\n")
    goes_on(house, whole)


def test_during_validation(house: House, whole: House) -> None:
    """It is broken off, and a resume begins with it."""
    patch = before(Trainer, "eval_step", raised(signal.SIGTERM), when=STEPS + 2)
    house.train(patch=patch, code=143)
    state = house.state()
    assert (state["step"], state["last_completed_step"]) == (2 * STEPS, 2 * STEPS - 1)
    goes_on(house, whole)


def out_of_time(trainer: BaseTrainer) -> None:
    trainer.signal._deadline = 0.0


def test_time_budget(house: House, whole: House) -> None:
    """trainer.max_time: saves, ends with exit code 4, and a resume goes on to the same bits."""
    result = house.train("trainer.max_time=9h", patch=at_step(8, out_of_time), code=4)
    reported = "stopped by the end of its time budget (trainer.max_time) after step 9/18; saved. Continue with: "
    assert result.lines[-1] == reported + "python train.py -r saved/t/r"
    assert house.state()["config"]["trainer"]["max_time"] == 9 * 3600
    assert house.train("trainer.max_time=1e-9", code=4).lines[-1].startswith(reported)  # no step, nothing lost
    goes_on(house, whole, "trainer.max_time=null")


def test_during_a_save(house: House, whole: House) -> None:
    house.train(patch=before(torch, "save", raised(signal.SIGINT), when=3), code=130)
    goes_on(house, whole)


def test_started_in_the_background(house: House, whole: House) -> None:
    """A shell's `&` has SIGINT ignored."""
    ignored = lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)  # noqa: E731
    house.train(patch=together(ignored, at_step(8, raised(signal.SIGINT))), code=130)
    goes_on(house, whole)


def test_second_ends_at_once(house: House, whole: House) -> None:
    def twice(trainer: BaseTrainer) -> None:
        raised(signal.SIGTERM)()
        time.sleep(StopSignal.BOUNCE + 0.1)
        raised(signal.SIGTERM)()
        Path("late").touch()

    result = house.train(patch=at_step(8, twice), code=143)
    assert "stopped by a signal" not in result.text
    assert not (house.folder / "late").exists()
    assert house.steps == [8, 6]
    goes_on(house, whole)


@pytest.mark.parametrize(
    "first, second, pause",
    [
        (signal.SIGINT, signal.SIGINT, 0),
        (signal.SIGINT, signal.SIGTERM, 0),
        (signal.SIGUSR1, signal.SIGTERM, StopSignal.BOUNCE + 0.1),
    ],
    ids=["twice from one Ctrl-C", "from the terminal and from torchrun", "SLURM's warning, then the end"],
)
def test_what_is_no_second_signal(first: int, second: int, pause: float, house: House, whole: House) -> None:
    def both(trainer: BaseTrainer) -> None:
        raised(first)()
        time.sleep(pause)
        raised(second)()

    result = house.train(patch=at_step(8, both), code=CODES[signal.Signals(first)])
    assert re.search(REPORTED, result.text)
    assert house.steps[0] == 9
    goes_on(house, whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_to_the_whole_process_group(number: int, house: House, whole: House) -> None:
    """As Ctrl-C on a terminal: workers leave it to the main process."""
    child = house.start("data_loader.args.num_workers=2", patch=held())
    child.until((house.folder / "held").exists)
    workers = workers_of(child.pid)
    child.signal(number, group=True)
    result = child.wait()
    assert result.code == CODES[signal.Signals(number)]
    assert "Traceback" not in result.text
    assert len(workers) == 4  # two to train, and two kept by the validation before
    assert not [pid for pid in workers if alive(pid)]
    goes_on(house, whole, "data_loader.args.num_workers=2")


def test_no_worker_outlives_its_parent(house: House, whole: House) -> None:
    child = house.start("data_loader.args.num_workers=2", patch=held())
    child.until((house.folder / "held").exists)
    workers = workers_of(child.pid)
    child.signal(signal.SIGKILL)
    assert child.wait().code == 137
    assert len(workers) == 4  # two to train, and two kept by the validation before
    Child.until(child, lambda: not [pid for pid in workers if alive(pid)])
    goes_on(house, whole)


def test_worker_of_a_parent_already_dead() -> None:
    """Killed between the fork and the worker's request to be notified: it finds another process in its place."""
    pid = os.fork()
    if pid == 0:
        _start_worker(os.getpid(), 0)  # no process is its own parent
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1


def test_when_it_cannot_be_saved(house: House) -> None:
    """Exit 3, not 143: who asked must know that the last steps are lost."""

    def folder_in_its_place(trainer: BaseTrainer) -> None:
        (house.run / "checkpoints/checkpoint-step9.pth").mkdir()
        raised(signal.SIGTERM)()

    result = house.train(patch=at_step(8, folder_in_its_place), code=3)
    assert "could not save a checkpoint in saved/t/r/checkpoints: Is a directory; " in result.text
    assert "nothing newer than checkpoint-step8.pth is on the disk" in result.lines[-1]
