"""Three sweep.py on one sweep, kill -9 of anything: no trial is lost, none runs twice, and the bits are the same."""

import contextlib
import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.sweeps import GRID, SPACE, Sweeps, tiny
from tests.trainer.checkpoint.harness import Child, alive, same_end, workers_of

KILLS = 30
TRIALS = 6


def storm(house: Sweeps, seed: int) -> int:
    """Run a sweep to its end by three processes, which are started again when they are killed, as are their trials.

    Returns the number of kills.
    """
    draw, kills = random.Random(seed), 0
    commands: list[Child] = []
    end = time.monotonic() + 600
    next_kill = time.monotonic() + 0.3
    while True:
        assert time.monotonic() < end, "\n".join(child.text() for child in commands)
        commands = [child for child in commands if alive(child.pid)]
        done = all(trial.finished for trial in house.trials()) and len(house.trials()) == TRIALS
        if done and not commands:
            return kills
        while len(commands) < 3 and not done:
            commands.append(house.start_sweep("-r", "saved/t/s"))
        targets = [child.pid for child in commands]
        targets += [pid for child in targets for pid in workers_of(child)]
        if kills < KILLS and targets and time.monotonic() > next_kill:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(draw.choice(targets), signal.SIGKILL)
                kills += 1
                next_kill = time.monotonic() + draw.uniform(0.02, 0.15)
        time.sleep(0.01)


SETS = {
    "seeds": ["seed=1..6"],
    "random": ["-s", "s.yaml", "--trials", str(TRIALS)],
    "grid": ["-s", "s.yaml"],
    "tpe": ["-s", "s.yaml", "--trials", str(TRIALS)],
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", SETS)
def test_kill_storm(kind: str, tmp_path: Path) -> None:
    if kind != "seeds":
        pytest.importorskip("optuna", reason="a search needs Optuna (extra sweep)")
    spec = tiny(trainer__monitor="min val_loss", trainer__epochs=40, trainer__save_period=4)
    houses = [Sweeps(tmp_path / name, spec) for name in ("stormy", "whole")]
    for house in houses:
        (house.folder / "s.yaml").write_text(GRID if kind == "grid" else SPACE.replace("SAMPLER", kind))
        house.new(*SETS[kind], "--table" if house is houses[0] else "--json")
    stormy, whole = houses
    kills = storm(stormy, seed=1)
    stormy.sweep("-r", "saved/t/s")

    trials = stormy.trials()
    assert [trial.number for trial in trials] == list(range(TRIALS))
    assert {trial.state for trial in trials} == {"done"}
    assert sorted(path.name for path in stormy.path.glob("[0-9]*")) == [f"{i:03}" for i in range(TRIALS)]
    for number in range(TRIALS):
        assert stormy.steps_of(number) == list(range(6, 241, 6))
    if kind != "seeds":
        _check_study(stormy)
    if kind != "tpe":
        assert stormy.rows() == whole.rows()
        for number in range(TRIALS):
            same_end(stormy.run_of(number), whole.run_of(number))
    assert kills >= 20, "the sweep was over too soon"


def _check_study(house: Sweeps) -> None:
    """Optuna knows each trial once, with the value of its run."""
    trials = house.study().trials
    assert [t.state.name for t in trials] == ["COMPLETE"] * TRIALS
    assert [t.value for t in trials] == [trial.values["val_loss"] for trial in house.trials()]
