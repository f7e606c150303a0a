"""sweep.py: seeds, folds, grids and searches of one config; what it leaves behind, and what it does not accept."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.sweeps import GRID, SPACE, Sweeps, tiny
from tests.trainer.checkpoint.harness import at_step, before, die, same_end
from trainer.engine.base_trainer import BaseTrainer
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


@pytest.mark.parametrize(
    "args, message",
    [
        (["optimizer.args.lrr=1,2"], "optimizer.args.lrr=2: unknown argument 'lrr' (did you mean 'lr'?)"),
        (["seed=1,-1"], "command line: seed=-1: got -1, expected a non-negative integer"),
        (["seed=1,2", "trainer.monitor=min val_los"], "the run never produces 'val_los' (did you mean 'val_loss'?)"),
        ([], "every run would be the same; give a key several values, such as seed=1..5, or a space: -s"),
        (["seed=1,2", "--trials", "3"], "--trials is for a search; give its space too: -s FILE"),
        (["-s", "nothing.yaml"], "nothing.yaml: no such file"),
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


# -- searches ---------------------------------------------------------------------------------------------------------


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


@pytest.mark.slow
def test_a_grid_ends_by_itself(house: Sweeps) -> None:
    search(house, GRID)
    house.new("-s", "s.yaml", "--jobs", "2", "trainer.max_steps=2")
    assert len({str(trial.keys) for trial in house.trials()}) == len(house.trials()) == 6


def test_several_objectives_and_the_study(house: Sweeps) -> None:
    """What Optuna knows is what the table says."""
    optuna = pytest.importorskip("optuna", reason="a search needs Optuna (extra sweep)")
    search(house, SPACE.replace("SAMPLER", "tpe") + "objective: [max val_accuracy, min val_loss]\ntrials: 4\n")
    house.new("-s", "s.yaml", "trainer.max_steps=6")
    backend = optuna.storages.journal.JournalFileBackend(str(house.path / "journal.log"))
    study = optuna.load_study(study_name="t/s", storage=optuna.storages.JournalStorage(backend))
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
        (SPACE + "prune: MedianPrunr\n", "s.yaml:6: prune: got \"MedianPrunr\" (did you mean 'MedianPruner'?)"),
        (SPACE + "prune: {type: MedianPruner, args: {n: 1}}\n", "s.yaml:6: prune: MedianPruner: "),
        (SPACE, "s.yaml: how many trials? give --trials N, or trials: N in that file"),
    ],
)
def test_a_bad_space_costs_no_trial(text: str, message: str, house: Sweeps) -> None:
    search(house, text.replace("SAMPLER", "tpe"))
    result = house.new("-s", "s.yaml", code=2)
    assert message in result.text
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
    journal.unlink()
    result = house.sweep("-r", "saved/t/s", code=2)
    assert "journal.log is gone, and with it what the search knows; put it back, or start a new sweep" in result.text
    house.sweep("-r", "saved/t/s", "--table")


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
