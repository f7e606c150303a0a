"""Searches of sweep.py: what is drawn, what Optuna knows of it, and what a search does not accept."""

import os
import time
from pathlib import Path

import pytest

from tests.sweeps import GRID, SPACE, Sweeps, tiny
from tests.trainer.checkpoint.harness import before, die
from trainer.engine.base_trainer import BaseTrainer
from utils.sweep import study
from utils.sweep.space import Space


@pytest.fixture
def house(tmp_path: Path) -> Sweeps:
    return Sweeps(tmp_path / "house", tiny(trainer__monitor="min val_loss"))


def search(house: Sweeps, text: str) -> None:
    pytest.importorskip("optuna", reason="a search needs Optuna (extra sweep)")
    (house.folder / "s.yaml").write_text(text)


@pytest.mark.slow
def test_random_search_is_a_function_of_seed_and_number(house: Sweeps, tmp_path: Path) -> None:
    """However many run at a time, and however they are added."""
    search(house, SPACE.replace("SAMPLER", "random"))
    short = "trainer.max_steps=2"
    house.new("-s", "s.yaml", "--trials", "3", short)
    house.sweep("-r", "saved/t/s", "--trials", "6", "--jobs", "3")
    other = Sweeps(tmp_path / "other", house.spec)
    search(other, SPACE.replace("SAMPLER", "random"))
    other.new("-s", "s.yaml", "--trials", "6", short)
    assert house.rows() == other.rows()
    keys = [trial.keys for trial in house.trials()]
    assert len({str(key) for key in keys}) == 6
    assert all(0.001 <= key["optimizer.args.lr"] <= 0.1 and key["arch.args.hidden"] in ([8], [16]) for key in keys)
    reseeded = Sweeps(tmp_path / "reseeded", house.spec)
    search(reseeded, SPACE.replace("SAMPLER", "random") + "seed: 2\n")
    reseeded.new("-s", "s.yaml", "--trials", "1", short)
    assert reseeded.trials()[0].keys not in keys


def test_each_key_of_a_trial_is_drawn_by_itself(house: Sweeps, tmp_path: Path) -> None:
    """Not by one random number for all keys of a trial, for which a search would see a diagonal of its space."""
    optuna = pytest.importorskip("optuna", reason="a search needs Optuna (extra sweep)")
    file = tmp_path / "space.yaml"
    file.write_text("space: {a: {float: [0, 1]}, b: {float: [0, 1]}}\n")
    space = Space.read(file)
    for space.sampler in ("tpe", "random"):
        found = study.sampler(space, 3, space.keys[0]), study.sampler(space, 3, space.keys[1])
        trial = optuna.create_study().ask()
        draws = []
        for sampler, key in zip(found, space.keys, strict=True):
            trial.study.sampler = sampler
            draws.append(trial.suggest_float(key.name, 0, 1))
        assert abs(draws[0] - draws[1]) > 1e-3


@pytest.mark.slow
def test_a_grid_ends_by_itself(house: Sweeps) -> None:
    search(house, GRID)
    house.new("-s", "s.yaml", "--jobs", "2", "trainer.max_steps=2")
    assert len({str(trial.keys) for trial in house.trials()}) == len(house.trials()) == 6


def test_several_objectives_and_the_study(house: Sweeps) -> None:
    """What Optuna knows is what the table says."""
    search(house, SPACE.replace("SAMPLER", "tpe") + "objective: [max val_accuracy, min val_loss]\ntrials: 4\n")
    house.new("-s", "s.yaml", "trainer.max_steps=6")
    study = house.study()
    known = [(t.state.name, t.values) for t in study.trials]
    trials = house.trials()
    assert known == [("COMPLETE", [t.values["val_accuracy"], t.values["val_loss"]]) for t in trials]
    assert [t.params["optimizer.args.lr"] for t in study.trials] == pytest.approx(
        [t.keys["optimizer.args.lr"] for t in trials], rel=1e-5
    )


@pytest.mark.slow
def test_pruning(house: Sweeps) -> None:
    """Trials that are worse than the others end early, and count as pruned."""
    search(house, """
space:
  optimizer.args.lr: {choice: [0.03, 0.01, 1e-9, 1e-8]}
sampler: grid
prune: {type: MedianPruner, args: {n_startup_trials: 2}}
""")  # fmt: skip
    slow = before(BaseTrainer, "run_step", lambda *_: time.sleep(0.01), when=lambda *_: True)
    args = ("-c", "c.yaml", "--sweep-id", "s", "-s", "s.yaml", "trainer.epochs=30", "trainer.limit_batches=2")
    house.sweep(*args, patch=slow)
    assert [trial.state for trial in house.trials()] == ["done", "done", "pruned", "pruned"]
    assert all(0 < trial.step < 60 for trial in house.trials()[2:])
    assert all("pruned" in row for row in house.rows()[3:])


@pytest.mark.parametrize(
    "text, message",
    [
        (SPACE.replace("args.lr", "args.lrr"), "s.yaml:3: space.optimizer.args.lrr=0.001: unknown argument 'lrr'"),
        (
            SPACE.replace("hidden", "hiden"),
            "s.yaml:4: space.arch.args.hiden=[8]: unknown argument 'hiden' (did",
        ),
        (SPACE + "objective: max val_acc\n", "s.yaml:6: objective: the run never produces 'val_acc'"),
        (SPACE + "objective: off\n", "s.yaml:6: objective: got off, expected min NAME or max NAME"),
        (SPACE + "prune: MedianPrunr\n", "s.yaml:6: prune: got \"MedianPrunr\" (did you mean 'MedianPruner'?)"),
        (SPACE + "prune: {type: MedianPruner, args: {n: 1}}\n", "s.yaml:6: prune: MedianPruner: "),
        (SPACE.replace("log", "lgo"), "s.yaml:3: space.optimizer.args.lr.lgo: unknown key 'lgo'"),
        (SPACE, "s.yaml: how many trials? give --trials N, or trials: N in that file"),
    ],
)
def test_a_bad_space_costs_no_trial(text: str, message: str, house: Sweeps) -> None:
    search(house, text.replace("SAMPLER", "tpe"))
    result = house.new("-s", "s.yaml", code=2)
    assert message in result.text
    assert not house.path.exists()


@pytest.mark.parametrize(
    "url, message",
    [
        ("sqlite:///x.db", "--storage sqlite: expected postgresql://USER@HOST/DATABASE"),
        ("postgresql+nothing://a@b/c", "expected postgresql://USER@HOST/DATABASE"),
    ],
)
def test_a_storage_that_cannot_be(url: str, message: str, house: Sweeps) -> None:
    """Leaves no folder behind."""
    search(house, SPACE.replace("SAMPLER", "random"))
    pytest.importorskip("sqlalchemy")
    assert message in house.new("-s", "s.yaml", "--trials", "1", "--storage", url, code=2).text
    assert not house.path.exists()


@pytest.mark.slow
def test_a_journal_that_is_gone_or_broken(house: Sweeps) -> None:
    search(house, SPACE.replace("SAMPLER", "random") + "trials: 2\n")
    house.new("-s", "s.yaml", "trainer.max_steps=2")
    journal = house.path / "journal.log"
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code":')  # half a line, of a process that was killed
    house.sweep("-r", "saved/t/s", "--trials", "3")
    assert len(house.trials()) == 3
    journal.write_bytes(b"nonsense\n" + whole)
    result = house.sweep("-r", "saved/t/s", code=3)
    assert "journal.log cannot be used: " in result.text
    assert "remove it, as it can be rebuilt from the trials" in result.text
    for count, cut in ((4, whole[: len(whole) // 3].rpartition(b"\n")[0] + b"\n"), (5, b"")):
        journal.write_bytes(cut)  # its end is lost, or all of it; without the trials, the next would be number 0 again
        rows = house.rows()
        house.sweep("-r", "saved/t/s", "--trials", str(count))
        assert len(house.rows()) == 1 + count
        assert house.rows()[: len(rows)] == rows
        known, trials = house.study().trials, house.trials()
        assert [(t.state.name, t.value) for t in known] == [("COMPLETE", t.values["val_loss"]) for t in trials]
        expected = [t.keys["optimizer.args.lr"] for t in trials]
        assert [t.params["optimizer.args.lr"] for t in known] == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_a_journal_that_another_process_keeps_locked(house: Sweeps, monkeypatch: pytest.MonkeyPatch) -> None:
    from utils.sweep import folder

    search(house, SPACE.replace("SAMPLER", "random") + "trials: 1\n")
    house.new("-s", "s.yaml", "trainer.max_steps=2")
    monkeypatch.setattr(folder, "PATIENCE", 0.2)
    with folder.wait_for(house.path / ".journal.log.lock"):
        result = house.sweep("-r", "saved/t/s", "--trials", "2", code=3)
    assert f".journal.log.lock has been locked by process {os.getpid()} on" in result.text
    assert "end that process, and try again" in result.text


def test_killed_between_the_keys_of_a_trial(house: Sweeps, tmp_path: Path) -> None:
    """What remains to be drawn does not depend on what was drawn before."""
    optuna = pytest.importorskip("optuna", reason="a search needs Optuna (extra sweep)")
    search(house, SPACE.replace("SAMPLER", "random"))
    args = ("-c", "c.yaml", "--sweep-id", "s", "-s", "s.yaml", "--trials", "1", "trainer.max_steps=2")
    house.sweep(*args, patch=before(optuna.trial.Trial, "suggest_categorical", die), code=137)
    house.sweep("-r", "saved/t/s")
    other = Sweeps(tmp_path / "other", house.spec)
    search(other, SPACE.replace("SAMPLER", "random"))
    other.sweep(*args)
    assert house.rows() == other.rows()
