"""The folder of a sweep: claims of trials, and trials that are added."""

import multiprocessing
import time
from pathlib import Path

import pytest

from utils.errors import UsageError
from utils.sweep.folder import Sweep, new_folder, newest


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    made = Sweep.create(tmp_path / "t/s", {"objectives": ["min val_loss"]}, "name: t\n")
    made.add_points({"seed": [1, 2]})
    return made


def _hold(sweep: Sweep, number: int) -> None:
    claim = sweep.claim(number)
    assert claim is not None
    (sweep.folder / "held").touch()
    time.sleep(60)


def test_a_claim_lasts_until_its_process_ends(sweep: Sweep) -> None:
    process = multiprocessing.get_context("fork").Process(target=_hold, args=(sweep, 0))  # type: ignore[attr-defined]
    process.start()
    while not (sweep.folder / "held").exists():
        time.sleep(0.01)
    assert sweep.claim(0) is None
    assert [sweep.is_claimed(number) for number in (0, 1)] == [True, False]
    process.kill()
    process.join()
    assert not sweep.is_claimed(0)


def test_what_was_there_keeps_its_number(sweep: Sweep) -> None:
    assert sweep.add_points({"seed": [1, 2]}) == 0
    assert Sweep.open(sweep.folder).add_points({"seed": [0, 2]}) == 1
    assert [trial.keys["seed"] for trial in sweep.trials()] == [1, 2, 0]


def test_a_trial_that_cannot_be_read(sweep: Sweep) -> None:
    path = sweep.folder / "trials/001.json"
    path.write_text("{")
    with pytest.raises(UsageError, match=r"001\.json cannot be read: .*; remove it, and .* runs its keys again"):
        sweep.trials()
    path.unlink()
    assert sweep.add_points({}) == 1  # as -r does
    assert [trial.keys["seed"] for trial in sweep.trials()] == [1, 2]


def test_names(sweep: Sweep, tmp_path: Path) -> None:
    assert newest(str(tmp_path), "t", None) == newest(str(tmp_path), "t", "s") == sweep.folder
    assert newest(str(tmp_path), "t", "other") is newest(str(tmp_path), "x", None) is None
    with pytest.raises(UsageError, match="exists already; continue it with -r"):
        new_folder(str(tmp_path), "t", "s")
    (tmp_path / "t/killed/trials").mkdir(parents=True)  # by a process that was killed before it wrote sweep.yaml
    assert not new_folder(str(tmp_path), "t", "killed").exists()
