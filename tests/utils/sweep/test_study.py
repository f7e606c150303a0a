"""The study of a search is told again what the files of its folder know, whatever of it is lost."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from utils.errors import Stopped
from utils.sweep.folder import Sweep, Trial
from utils.sweep.space import Space

pytest.importorskip("optuna", reason="a search needs Optuna (extra sweep)")

from utils.sweep.study import Search, rounded

SPACE = """
space: {lr: {float: [0, 1], step: 0.01}}
sampler: SAMPLER
prune: {type: MedianPruner, args: {n_startup_trials: 3}}
"""
LOSSES = {0: 1.0, 1: 1.1, 2: 1.2}  # of the trials that are done
Again = Callable[[], Search]


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep.create(tmp_path / "t/s", {"objectives": ["min val_loss"]}, "name: t\n")


@pytest.fixture(params=["random", "grid"])
def again(request: pytest.FixtureRequest, sweep: Sweep, tmp_path: Path) -> Again:
    """Opens the search of five trials, as each start of sweep.py does."""
    file = tmp_path / "space.yaml"
    file.write_text(SPACE.replace("SAMPLER", request.param))
    return lambda: Search(sweep, Space.read(file), 5, None)


@pytest.fixture
def search(sweep: Sweep, again: Again) -> Search:
    """Three trials are done, and the fourth runs."""
    search = again()
    for number, loss in LOSSES.items():
        train(sweep, number, [loss, loss], search)
        trial = sweep.trial(number)
        trial.state, trial.step, trial.values = "done", 2, {"val_loss": loss}
        sweep.write(trial)
    train(sweep, 3, [9.0], search)
    return search


def train(sweep: Sweep, number: int, losses: list[float], search: Search) -> None:
    """The trial that is next has these validations."""
    trial = search.more()
    assert trial is not None
    assert trial.number == number
    write(sweep, trial, losses)


def write(sweep: Sweep, trial: Trial, losses: list[float]) -> None:
    folder = sweep.run_folder(trial)
    folder.mkdir(exist_ok=True)
    rows: list[dict[str, Any]] = [
        {"split": "valid", "step": step, "epoch": step, "loss": loss} for step, loss in enumerate(losses, 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def known(search: Search) -> list[Any]:
    keys = [{key: rounded(value) for key, value in t.params.items()} for t in search.study.trials]
    trials = zip(search.study.trials, keys, strict=True)
    return [(t.state.name, params, t.intermediate_values, t.values) for t, params in trials]


def test_a_lost_journal_is_written_anew_at_once(sweep: Sweep, again: Again, search: Search) -> None:
    """Before the trial that was interrupted goes on, and its first validations are judged by those of the others."""
    again()  # tells the results
    before = known(search)
    (sweep.folder / "journal.log").unlink()
    anew = again()
    assert known(anew) == before
    assert [state for state, *_ in before] == ["COMPLETE"] * 3 + ["RUNNING"]
    assert before[0][2] == {1: 1.0, 2: 1.0}
    assert anew.should_prune(sweep.trial(3), [(1, 9.0)])


def test_a_lost_journal_and_a_gap_in_the_files(sweep: Sweep, again: Again, search: Search) -> None:
    keys = sweep.trial(1).keys
    for name in ("journal.log", "trials/001.json"):
        (sweep.folder / name).unlink()
    anew = again()
    assert anew.should_prune(sweep.trial(3), [(1, 9.0)]) is False, "only two trials are known before it"
    trial = anew.more()
    assert trial is not None
    assert (trial.number, trial.keys) == (1, keys)
    assert [state for state, *_ in known(anew)] == ["COMPLETE", "RUNNING", "COMPLETE", "RUNNING"]


def test_a_pruned_trial_keeps_its_value(sweep: Sweep, again: Again, search: Search) -> None:
    trial = sweep.trial(3)
    trial.state, trial.step, trial.values = "pruned", 1, {"val_loss": 9.0}
    sweep.write(trial)
    (sweep.folder / "journal.log").unlink()
    assert known(again())[3][0::3] == ("PRUNED", [9.0])


def test_a_file_that_was_removed_is_written_again(sweep: Sweep, again: Again, search: Search) -> None:
    """As the message about a file that cannot be read advises."""
    again()
    there = sweep.trial(1)
    (sweep.folder / "trials/001.json").unlink()
    anew = again()
    trial = anew.more()
    assert trial is not None
    assert (trial.number, trial.keys, trial.state) == (1, there.keys, "waiting")
    assert anew.should_prune(trial, [(1, 9.0), (2, 9.0)]) is False
    assert sweep.trial(1) == trial
    following = anew.more()
    assert following is not None
    assert following.number == 4


def test_retried_trials_are_not_pruned(sweep: Sweep, again: Again, search: Search) -> None:
    """The study has them as failed, and takes no more values."""
    trial = sweep.trial(3)
    trial.state = "failed"
    sweep.write(trial)
    anew = again()
    assert known(anew)[3][0] == "FAIL"
    sweep.retry()
    assert anew.should_prune(sweep.trial(3), [(1, 9.0), (2, 9.0)]) is False
    trial.number = 7
    assert anew.should_prune(trial, [(1, 9.0)]) is False


@pytest.mark.parametrize("lost", ["the last", "all, and others came"])
def test_a_shared_study_that_lost_trials_is_refused(lost: str, sweep: Sweep, search: Search) -> None:
    """Each folder would add its own alone, and so repeat those of the others."""
    search.url = "postgresql://sweep@here/t"
    assert search.more() is not None
    if lost == "the last":
        sweep.write(Trial(5, {"lr": 0.5}))
    else:
        sweep.spec["owner"] = "this folder, and not the one that has added the trials"
    with pytest.raises(Stopped, match=r"the study in --storage has lost trials that .*/t/s has; restore the database"):
        search.more()
