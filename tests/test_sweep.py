"""sweep.py: seeds, folds, grids and searches of one config; what it leaves behind, and what it does not accept."""

import json
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

import train
from tests.sweeps import Sweeps, tiny
from tests.trainer.checkpoint.harness import at_step, before, same_end, workers_of
from trainer.engine.base_trainer import BaseTrainer
from trainer.inference import out_of_fold
from utils.sweep import workers


@pytest.fixture
def house(tmp_path: Path) -> Sweeps:
    return Sweeps(tmp_path / "house", tiny(trainer__monitor="min val_loss"))


@pytest.mark.slow
def test_seeds(house: Sweeps) -> None:
    """Each trial is the run that train.py makes of its keys; adding seeds keeps those that are there."""
    result = house.new("seed=1..2", "optimizer.args.lr=0.01,0.03")
    assert "mean ± standard deviation over seed" in result.text
    assert [trial.keys for trial in house.trials()] == [
        {"seed": seed, "optimizer.args.lr": lr} for seed in (1, 2) for lr in (0.01, 0.03)
    ]
    assert all(trial.state == "done" and trial.seconds > 0 for trial in house.trials())
    house.train("seed=2", "optimizer.args.lr=0.03")
    same_end(house.run_of(3), house)
    best = yaml.safe_load((house.path / "best.yaml").read_text())
    assert (best["seed"], best["optimizer"]["args"]["lr"]) == (1, 0.03)
    assert house.command("-c", "saved/t/s/best.yaml", "--check").code == 0

    untouched = house.run_of(0).files()
    result = house.sweep("-r", "saved/t/s", "seed=1..3", "--jobs", "2")
    assert [line for line in result.lines if line.startswith("trial 0")] == []
    assert len(house.rows()) == 1 + 6
    assert [trial.keys["seed"] for trial in house.trials()] == [1, 1, 2, 2, 3, 3]
    assert house.run_of(0).files() == untouched
    result = house.sweep("-c", "c.yaml", "-r", "auto", "seed=1..3", "optimizer.args.lr=0.01,0.03", "--json")
    found = json.loads(result.text[result.text.index("{") :])
    assert (len(found["trials"]), len(found["groups"]), found["best"]["keys"]) == (6, 2, {"optimizer.args.lr": 0.03})


@pytest.mark.slow
def test_ctrl_c_saves_and_a_second_call_continues(house: Sweeps, tmp_path: Path) -> None:
    """In the middle of an epoch: the trial goes on from there, and ends with the same bits."""
    whole = Sweeps(tmp_path / "whole", house.spec)
    whole.new("seed=1..3")

    def wait(trainer: BaseTrainer) -> None:
        if trainer.seed == 2:
            Path(house.folder, "held").touch()
            while not trainer.signal.number:
                time.sleep(0.005)

    child = house.start_sweep("-c", "c.yaml", "--sweep-id", "s", "seed=1..3", patch=at_step(8, wait))
    child.until((house.folder / "held").exists)
    child.signal(signal.SIGINT)
    result = child.wait()
    assert result.code == 130
    assert result.lines[-1] == "interrupted; what ran is saved. Continue with: python sweep.py -r saved/t/s"
    assert [trial.state for trial in house.trials()] == ["done", "waiting", "waiting"]
    assert house.run_of(1).steps == [9, 6]  # saved in mid-epoch
    house.sweep("-r", "saved/t/s")
    assert house.rows() == whole.rows()
    for number in range(3):
        same_end(house.run_of(number), whole.run_of(number))
    assert "from step 9" in (house.path / "001/log.txt").read_text()


@pytest.mark.slow
def test_a_trial_that_fails_is_recorded_and_the_others_go_on(house: Sweeps) -> None:
    result = house.new("optimizer.args.lr=1e30,0.01", "trainer.tensorboard=false", code=3)
    assert [trial.state for trial in house.trials()] == ["failed", "done"]
    assert "trial 0 (optimizer.args.lr=1e+30) failed: the loss is" in result.text
    assert "stopped: 1 of 2 trials failed; the first, trial 0: the loss is" in result.text
    before_retry = house.trials()[0].seconds
    result = house.sweep("-r", "saved/t/s", code=3)
    assert "trial 0 (" not in result.text  # it is not run again
    result = house.sweep("-r", "saved/t/s", "--retry", code=3)
    assert "trial 0 (optimizer.args.lr=1e+30) failed" in result.text
    assert house.trials()[0].seconds > before_retry


@pytest.mark.slow
def test_trials_that_all_fail_alike_end_the_sweep(house: Sweeps) -> None:
    """Where the data is missing, say, the others would fail, too. With the cause removed, it goes on."""

    def fail(*_: Any) -> None:
        raise OSError("no data there")

    patch = before(train, "build", fail, when=lambda *_: True)
    result = house.sweep("-c", "c.yaml", "--sweep-id", "s", "seed=1..5", "trainer.max_steps=1", patch=patch, code=3)
    assert "the first 3 trials failed alike: OSError: no data there. Remove the cause" in result.text
    assert [trial.state for trial in house.trials()] == ["failed"] * 3 + ["waiting"] * 2
    house.sweep("-r", "saved/t/s", "--retry")
    assert {trial.state for trial in house.trials()} == {"done"}


@pytest.mark.slow
def test_a_trial_that_kills_its_process_is_recorded(house: Sweeps, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash at once; what looks like no memory after some attempts without progress."""
    monkeypatch.setattr(workers, "KILLS", 3)

    def crash(trainer: BaseTrainer, *_: Any) -> None:
        os.kill(os.getpid(), {1: signal.SIGABRT, 2: signal.SIGKILL}.get(trainer.seed, 0))

    result = house.sweep(
        "-c", "c.yaml", "--sweep-id", "s", "seed=1..3", code=3,
        patch=before(BaseTrainer, "run_step", crash, when=lambda trainer, *_: trainer.step == 1),
    )  # fmt: skip
    assert [trial.state for trial in house.trials()] == ["failed", "failed", "done"]
    assert "failed: its process ended with exit code -6" in result.text
    assert "failed: killed 3 times without a new checkpoint; most often the machine ran out of memory" in result.text


@pytest.mark.slow
def test_a_process_that_cannot_start_at_once(house: Sweeps) -> None:
    """As where its fork server has just been killed."""

    def fail(*_: Any) -> None:
        raise EOFError

    patch = before(multiprocessing.get_context("fork").Process, "start", fail)
    house.sweep("-c", "c.yaml", "--sweep-id", "s", "seed=1,2", "trainer.max_steps=1", patch=patch)
    assert [trial.state for trial in house.trials()] == ["done", "done"]


@pytest.mark.parametrize(
    "args, message",
    [
        (["optimizer.args.lrr=1,2"], "optimizer.args.lrr=2: unknown argument 'lrr' (did you mean 'lr'?)"),
        (["seed=1,-1"], "command line: seed=-1: got -1, expected a non-negative integer"),
        (["seed=1,2", "trainer.monitor=min val_los"], "the run never produces 'val_los' (did you mean 'val_loss'?)"),
        ([], "every run would be the same; give a key several values, such as seed=1..5, or a space: -s"),
        (["seed=1,2", "--trials", "3"], "--trials is for a search; give its space too: -s FILE"),
        (["-s", "nothing.yaml"], "nothing.yaml: no such file"),
        (["seed=5..1"], "seed=5..1: 5..1 is not a range; give FIRST..LAST, both included, with FIRST below LAST"),
        (["seed=1..2", "-s", "c.yaml"], "repeat the best: sweep.py -c SWEEP/best.yaml seed=..."),
        (["seed=1,2", "--jobs", "0"], "--jobs 0: expected 1 or more"),
        (["seed=1,2", "-r", "saved/t/x"], "no sweep; give the folder of one, or auto"),
    ],
)
def test_what_is_wrong_costs_no_run(args: list[str], message: str, house: Sweeps) -> None:
    result = house.new(*args, code=2)
    assert message in result.text
    assert not house.path.exists()


@pytest.mark.slow
def test_another_config_cannot_continue_it(house: Sweeps) -> None:
    house.new("seed=1,2", "trainer.max_steps=1")
    result = house.sweep("-r", "saved/t/s", "trainer.epochs=4", code=2)
    assert "has another config, and its runs would not be comparable: trainer.epochs: 3 -> 4" in result.text
    result = house.sweep("-r", "saved/t/s", "optimizer.args.lr=1,2", code=2)
    assert "optimizer.args.lr has one value in this sweep, of seed; start a new one" in result.text
    assert "exists already; continue it with -r saved/t/s" in house.new("seed=1,2", code=2).text


@pytest.mark.slow
def test_a_disk_that_is_full_loses_no_trial(house: Sweeps, tmp_path: Path) -> None:
    """It stops, and says so; nothing counts as failed, and later it goes on."""
    import resource

    def full(trainer: BaseTrainer, *_: Any) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))

    patch = before(BaseTrainer, "run_step", full, when=lambda trainer, *_: trainer.seed == 2 and trainer.step == 7)
    result = house.sweep("-c", "c.yaml", "--sweep-id", "s", "seed=1..3", patch=patch, code=3)
    assert "stopped: saved/t/s cannot be written" in result.text
    assert "No trial is lost: free some space, and continue with python sweep.py -r saved/t/s" in result.text
    assert [trial.state for trial in house.trials()] == ["done", "waiting", "waiting"]
    house.sweep("-r", "saved/t/s")
    whole = Sweeps(tmp_path / "whole", house.spec)
    whole.new("seed=1..3")
    assert house.rows() == whole.rows()


@pytest.mark.slow
def test_a_folder_that_is_removed_during_the_sweep(house: Sweeps) -> None:
    def wait(trainer: BaseTrainer) -> None:
        Path(house.folder, "held").touch()
        time.sleep(60)

    child = house.start_sweep("-c", "c.yaml", "--sweep-id", "s", "seed=1..2", patch=at_step(2, wait))
    child.until((house.folder / "held").exists)
    shutil.rmtree(house.path)
    os.kill(workers_of(child.pid)[0], signal.SIGKILL)
    result = child.wait()
    assert (result.code, len(result.lines)) == (3, 2), result.text
    assert "saved/t/s is gone: it was removed during the sweep, and its runs with it; start a new sweep" in result.text


# -- folds ------------------------------------------------------------------------------------------------------------


def test_folds(tmp_path: Path) -> None:
    """The out-of-fold values of one seed are the means over all samples; the runs predict as an ensemble."""
    spec = tiny(data_loader__args__validation_split=0, data_loader__args__folds=3, data_loader__args__fold=0)
    house = Sweeps(tmp_path, spec)
    result = house.new("data_loader.args.fold=0,1", "trainer.limit_batches=null")
    assert "1,000 samples of 2 of 3 folds as one set" in result.text
    result = house.sweep("-r", "saved/t/s", "data_loader.args.fold=0..2", "--json")
    found = json.loads(result.text[result.text.index("{") :])["out_of_fold"]
    assert (found["samples"], found["folds"], found["of"]) == (1500, 3, 3)
    for name in ("loss", "accuracy"):  # the folds have 500 samples each
        mean = sum(trial.values[f"val_{name}"] for trial in house.trials()) / 3
        assert found["values"][name] == pytest.approx(mean, rel=1e-6)
    header, *rows = [line.split(",") for line in (house.path / "oof.csv").read_text().splitlines()]
    assert header == ["id", "fold", "target", "label", *(f"prob_{i}" for i in range(10))]
    assert [row[0] for row in rows] == [str(i) for i in range(1500)]
    assert sum(row[2] == row[3] for row in rows) / 1500 == pytest.approx(found["values"]["accuracy"])
    assert {row[1] for row in rows} == {"0", "1", "2"}
    from utils.run_folder import members

    assert members(str(house.path)) == [str(house.path / name) for name in ("000", "001", "002")]
    assert members(str(house.path / "000")) == [str(house.path / "000")]

    def fail(*_: Any) -> None:
        raise AssertionError("the folds were evaluated again")

    again = house.sweep("-r", "saved/t/s", "--table", "--json", patch=before(out_of_fold.Fold, "__init__", fail))
    assert json.loads(again.text[again.text.index("{") :])["out_of_fold"] == found
