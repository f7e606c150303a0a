"""One process a run; and what `-r auto` finds."""

import os
import signal
import socket
import time
from pathlib import Path

import pytest

from tests.trainer.checkpoint.harness import House, at_step, config, die, held, same_end


@pytest.mark.parametrize("args", [("-r", "saved/t/r"), ("-c", "c.yaml", "-r", "auto")], ids=["by its name", "auto"])
def test_second_process_is_refused(args: tuple[str, ...], house: House) -> None:
    child = house.start("data_loader.args.num_workers=1", patch=held())
    child.until((house.folder / "held").exists)
    files = house.files()
    second = house.command(*args)
    assert (second.code, second.lines[-1]) == (
        2,
        f"error: saved/t/r: process {child.pid} on {socket.gethostname()} is writing to this run; stop it first, or "
        "start another run",
    )
    assert house.files() == files
    child.signal(signal.SIGKILL)
    child.wait()
    house.train()  # the lock is gone with it, though its worker may live a moment longer


def test_lock_is_gone_with_its_process(house: House) -> None:
    """Whatever it has started may live on."""

    def leave_a_child(_: object) -> None:
        if os.fork() == 0:
            time.sleep(5)
            os._exit(0)
        die()

    house.train(patch=at_step(8, leave_a_child), code=137)
    house.train()


def test_two_at_once(house: House) -> None:
    """Started in the same moment, one of them trains."""
    children = [house.start() for _ in range(3)]
    codes = sorted(child.wait().code for child in children)
    assert codes[0] == 0
    assert set(codes) <= {0, 2}
    assert house.steps[0] == 18
    assert len(house.metrics().splitlines()) == 12


def test_finished_run_is_not_touched(house: House) -> None:
    house.train()
    files = house.files()
    result = house.train()
    assert result.lines[-1] == (
        "nothing to do: saved/t/r finished at step 18: all its steps are done; to continue, raise trainer.epochs or "
        "trainer.max_steps"
    )
    assert house.command("-r", "saved/t/r/checkpoints").code == 0
    assert house.files() == files


def test_auto_passes_over_a_folder_without_a_config(house: House) -> None:
    """Of a process that was killed right after it had made the folder."""
    house.train(patch=at_step(9, die), code=137)
    (house.run.parent / "2099-01-01_00-00-00/checkpoints").mkdir(parents=True)
    assert "continuing in saved/t/r from step 8" in house.command("-c", "c.yaml", "-r", "auto").lines


@pytest.mark.parametrize("left", [[], [".lock"], [".lock", ".tmp-config.yaml"]], ids=str)
def test_auto_uses_an_empty_folder_of_that_id(left: list[str], house: House) -> None:
    (house.run / "checkpoints").mkdir(parents=True)
    for name in left:
        (house.run / name).touch()
    assert "training in saved/t/r" in house.train().lines


def test_folder_of_something_else_is_not_used(house: House) -> None:
    house.run.mkdir(parents=True)
    (house.run / "thesis.tex").touch()
    assert "--run-id r: saved/t/r exists already" in house.train(code=2).text


def test_auto_without_a_checkpoint_begins_again(house: House, tmp_path: Path) -> None:
    whole = House(tmp_path / "whole", config())
    whole.train()
    house.train("trainer.save_steps=100", patch=at_step(9, die), code=137)
    assert house.steps == []
    assert house.metrics()
    result = house.train()
    assert "warning: saved/t/r ended before its first checkpoint: starting it again from step 0" in result.lines
    same_end(house, whole)


def test_auto_begins_where_there_is_none(house: House) -> None:
    result = house.command("-c", "c.yaml", "-r", "auto")
    assert result.code == 0
    assert len(os.listdir(house.run.parent)) == 1
    again = house.command("-c", "c.yaml", "-r", "auto")
    assert again.lines[-1].startswith("nothing to do: ")
    assert len(os.listdir(house.run.parent)) == 1


def test_leftovers_are_cleaned_up(house: House) -> None:
    house.train(patch=at_step(9, die), code=137)
    (house.run / "checkpoints/.tmp-checkpoint-step99.pth").write_bytes(b"half")
    house.train()
    assert not list(house.run.rglob(".tmp-*"))
