"""Checkpoints of format 1: continued bit for bit, tested and loaded, also where weights were averaged."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.test_test import test_py
from tests.trainer.checkpoint.harness import House, at_step, config, die, same_end, unequal
from trainer import load_model
from trainer.checkpoint import files

__all__ = ["test_py"]
OPTIONS = {"lr_scheduler": {"type": "WarmupCosineLR"}, "trainer__monitor": "min val_loss", "trainer__epochs": 3}
NEW = ("facts", "values", "raw_model", "criterion", "metrics", "data_state")  # that format 1 did not have


def to_format_1(path: Path) -> dict[str, Any]:
    """Write a checkpoint of today as the version before wrote it. Returns that state."""
    state = torch.load(path, weights_only=True)
    state["model"] = state.get("raw_model", state["model"])
    old = {key: value for key, value in state.items() if key not in NEW}
    old["closed"] = old.pop("last_completed_step")
    if "callbacks" in state:
        old["callbacks"] = list(state["callbacks"].values())
    old["format"] = 1
    path.unlink()  # the best may be a link to it
    torch.save(old, path)
    return old


@pytest.fixture(params=[[], ["EMA"]], ids=["plain", "ema"])
def houses(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[House, House]:
    """A run that was never disturbed, and one that was killed in its ninth step, whose files are then of format 1."""
    spec = config(callbacks=request.param, **OPTIONS)
    whole, house = House(tmp_path / "whole", spec), House(tmp_path / "house", spec)
    whole.train()
    house.train(patch=at_step(9, die), code=137)
    for path in (house.run / "checkpoints").glob("*.pth"):
        to_format_1(path)
    return whole, house


def test_continued_bit_for_bit(houses: tuple[House, House]) -> None:
    whole, house = houses
    result = house.train()
    assert "continuing in saved/t/r from step 8" in result.lines
    assert "warning" not in result.text
    same_end(house, whole)
    assert house.state()["format"] == 2


def test_tested_and_loaded_like_one_of_today(houses: tuple[House, House], test_py: Any) -> None:
    whole, _ = houses
    path = whole.run / "checkpoints/checkpoint-step18.pth"
    model = load_model(path)
    test_py.main(["-r", str(path)])
    old = to_format_1(path)
    assert "callbacks" not in old or list(unequal(old["model"], dict(model.state_dict())))  # the weights in training
    assert not list(unequal(dict(load_model(path).state_dict()), dict(model.state_dict())))
    test_py.main(["-r", str(path)])
    *_, new_line, old_line = whole.metrics().splitlines()
    assert b'"split": "test"' in new_line
    assert new_line == old_line


def test_of_an_average_format_2_holds_both(tmp_path: Path) -> None:
    """`model` is what was validated, for everyone; `raw_model` is what training continues from."""
    house, plain = House(tmp_path / "ema", config(callbacks=["EMA"])), House(tmp_path / "plain", config())
    house.train()
    plain.train()
    state = house.state()
    assert not list(unequal(state["raw_model"], plain.state()["model"]))
    average = state["callbacks"]["EMA"]["average"]
    assert average.keys() < state["model"].keys()  # not the counts of batches
    assert not list(unequal({name: state["model"][name] for name in average}, average))
    assert list(unequal(state["model"], state["raw_model"]))
    assert "raw_model" not in plain.state()


def test_a_format_of_the_future_is_not_read(tmp_path: Path) -> None:
    house = House(tmp_path, config())
    house.train(patch=at_step(3, die), code=137)
    path = house.run / "checkpoints/checkpoint-step2.pth"
    torch.save(torch.load(path, weights_only=True) | {"format": 3}, path)
    with pytest.raises(files.BrokenCheckpoint, match="it is not a checkpoint of this template in format 1 to 2"):
        files.load(path)
