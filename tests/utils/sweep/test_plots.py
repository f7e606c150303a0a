"""Plots of a sweep: whatever happened to its trials, there are pictures of what there is, and a page of them."""

import math
from pathlib import Path

import pytest

from utils.sweep import plots, report
from utils.sweep.folder import Sweep, Trial
from utils.sweep.table import Table

ONE = ["max val_accuracy"]
TWO = ["max val_accuracy", "min val_loss"]


def trials(n: int, **values: float) -> list[Trial]:
    """Of a sweep whose accuracy depends on lr and on nothing else."""
    found = []
    for i in range(n):
        keys = {"optimizer.args.lr": 10.0 ** -(i % 4), "arch.args.hidden": [[8], [16]][i // 4 % 2], "seed": i}
        accuracy = 0.9 - 0.1 * (i % 4) + i / 1000
        found.append(Trial(i, keys, "done", {"val_accuracy": accuracy, "val_loss": 1 - accuracy} | values, 10, 1.0))
    return found


def test_importance() -> None:
    """Of the keys, by ranks: all of it to the one that decides, none to the one that does not."""
    table = Table(trials(16), TWO)
    for objective in TWO:
        assert plots.explained(table, "optimizer.args.lr", objective) == pytest.approx(315 / 340)
        assert plots.explained(table, "arch.args.hidden", objective) == 0
    many = [Trial(i, {"x": float(i)}, "done", {"val_accuracy": -((i - 20.0) ** 2)}) for i in range(41)]
    found = plots.explained(Table(many, ONE), "x", ONE[0])  # the middle is best: no correlation, but groups show it
    assert found is not None
    assert found > 0.7
    assert plots.explained(Table(trials(4), ONE), "optimizer.args.lr", ONE[0]) is None  # too few
    same = [Trial(i, {"x": 1}, "done", {"val_accuracy": float(i)}) for i in range(9)]
    assert plots.explained(Table(same, ONE), "x", ONE[0]) is None


def test_a_scale() -> None:
    numbers = plots.Scale([1e-4, 1e-2, 1.0])
    assert numbers.log
    assert [numbers.height(v) for v in (1e-4, 1e-2, 1.0)] == pytest.approx([0, 0.5, 1])
    names = plots.Scale([None, "a", [1, 2], True])
    assert len({names.position(v) for v in (None, "a", [1, 2], True)}) == 4
    assert plots.Scale([3, 3]).height(3) == 0.5
    assert plots.Scale([1, 2]).height(math.nan) == plots.NOT_SET


def test_a_diverged_trial_does_not_flatten_the_others() -> None:
    assert plots.limits([0.1, 0.2, 0.3, 0.2, 0.1] * 8 + [1e9]) == (0.1, 0.3)
    assert plots.limits([1.0, 2.0]) == (1.0, 2.0)
    assert plots.limits([5.0]) == (5.0, 5.0)


ALL = ["plots/history.png", "plots/importance.png", "plots/slices.png", "plots/parallel.png", "plots.html"]


def states() -> list[Trial]:
    found = trials(12)
    found[1] = Trial(1, found[1].keys, "failed", error="no memory")
    found[2].state = "pruned"
    found[3].values["val_accuracy"] = math.nan
    found[4].values = {"val_accuracy": 0.5}  # no loss
    del found[5].keys["arch.args.hidden"]  # conditional
    found[11] = Trial(11, found[11].keys)  # it runs
    return found


CASES = {
    "all states": (states(), TWO, ALL),
    "one trial": (trials(1), ONE, [ALL[0], *ALL[2:]]),
    "constant values": (trials(6, val_accuracy=0.5), ONE, [ALL[0], *ALL[2:]]),
    "pruned only": ([Trial(0, {"x": 1}, "pruned", {"val_accuracy": 0.5})], ONE, [ALL[0], ALL[2], ALL[4]]),
    "failed only": ([Trial(0, {"x": 1}, "failed")], ONE, []),
    "running only": ([Trial(0, {"x": 1})], ONE, []),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_what_is_drawn(case: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots need matplotlib (extra plots)")
    found, objectives, expected = CASES[case]
    assert plots.write(tmp_path, "saved/t/<s>", Table(found, objectives)) == expected
    assert sorted(path.name for path in tmp_path.glob("plots/*")) == sorted(name[6:] for name in expected[:-1])
    for name in expected[:-1]:
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    if expected:
        page = (tmp_path / "plots.html").read_text()
        assert page.count("data:image/png;base64,") == len(expected) - 1
        assert "saved/t/&lt;s&gt;" in page
        assert "http" not in page


def test_where_there_is_nothing_to_draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = Sweep(tmp_path, {})
    assert report.plots(sweep, Table([Trial(0, {"seed": 1}, "done", {"val_accuracy": 1.0})], ONE)) == []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    table = Table(trials(1), ONE)
    assert report.plots(sweep, table) is None
    assert "for plots of it, install matplotlib: make extra NAME=plots" in report.as_text(sweep, table, None, None)
