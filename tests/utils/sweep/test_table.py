"""The table: rows, mean and standard deviation where seeds or folds repeat, and which is best."""

import json
import math
from pathlib import Path

import pytest

from utils.sweep import report
from utils.sweep.folder import Sweep, Trial
from utils.sweep.table import Table

TRIALS = [
    Trial(0, {"lr": 0.1, "seed": 1}, "done", {"val_loss": 0.5, "acc": 0.8}, 10, 1.25),
    Trial(1, {"lr": 0.1, "seed": 2}, "done", {"val_loss": 0.7, "acc": 0.9}, 20, 1.0),
    Trial(2, {"lr": 0.2, "seed": 1}, "done", {"val_loss": 0.4, "acc": 0.7}, 10, 1.0),
    Trial(3, {"lr": 0.2, "seed": 2}, "failed", error="the loss is nan"),
    Trial(4, {"lr": 0.3, "seed": 1}, "pruned", {"val_loss": 0.1}, 5, 1.0),
]


def test_seeds_are_repeats() -> None:
    table = Table(TRIALS, ["min val_loss"])
    assert [group.keys for group in table.groups] == [{"lr": 0.1}, {"lr": 0.2}, {"lr": 0.3}]
    first = table.groups[0]
    assert (first.mean("val_loss"), first.sd("val_loss")) == pytest.approx((0.6, 0.1414213562))
    best = table.best()
    assert best is not None
    assert best.keys == {"lr": 0.2}  # the pruned one does not count
    text = table.to_text()
    assert "mean ± standard deviation over seed\n lr    val_loss           acc  runs\n" in text
    assert "0.1  0.6 ± 0.14  0.85 ± 0.071     2\n" in text
    assert " 3  0.2     2         -    -     0  0.0 s  failed\n" in text
    assert table.headline() == "best val_loss 0.4: trials 2, 3 (lr=0.2)"


def test_max_and_several_objectives() -> None:
    table = Table(TRIALS[:3], ["max acc"])
    assert table.headline() == "best acc 0.85 ± 0.071: trials 0, 1 (lr=0.1)"
    both = Table(TRIALS[:3], ["min val_loss", "max acc"])
    assert [group.keys for group in both.front()] == [{"lr": 0.1}, {"lr": 0.2}]
    assert [group.keys for group in Table(TRIALS[:3], ["min val_loss", "min acc"]).front()] == [{"lr": 0.2}]


def test_csv_and_json() -> None:
    table = Table(TRIALS, ["min val_loss"])
    lines = table.to_csv().splitlines()
    assert lines[0] == "trial,lr,seed,val_loss,acc,step,seconds,state"
    assert lines[1] == "0,0.1,1,0.5,0.8,10,1.2,done"
    assert lines[4] == "3,0.2,2,,,0,0.0,failed"
    found = json.loads(json.dumps(table.to_dict(), allow_nan=False))
    assert found["groups"][0]["mean"]["val_loss"] == pytest.approx(0.6)
    assert found["trials"][3]["error"] == "the loss is nan"
    assert found["best"]["trials"] == [2, 3]


def test_json_of_folds_without_numbers() -> None:
    found = {"values": {"loss": math.nan, "accuracy": 0.5}, "folds": 2}
    text = report.as_json(Sweep(Path("s"), {}), Table(TRIALS, ["min val_loss"]), found)
    assert json.loads(text)["out_of_fold"] == {"values": {"loss": None, "accuracy": 0.5}, "folds": 2}


def test_nothing_is_done() -> None:
    table = Table([Trial(0, {})], ["min val_loss"])
    assert table.best() is None
    assert table.headline() == "no trial is done"
    assert "waiting" in table.to_text()
