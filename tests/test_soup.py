"""soup.py: the mean of several checkpoints, or one without what only training needs."""

from pathlib import Path

import pytest
import torch

import soup
from tests.tiny import Tiny, tiny
from trainer import load_model
from utils.errors import UsageError

__all__ = ["tiny"]
BATCH_NORM = "arch={type: ConvNet, args: {widths: [4], depth: 1}}"


def test_the_mean_of_two_runs(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    for i in (1, 2):
        tiny.train(BATCH_NORM, f"optimizer.args.lr=0.{i}", "trainer.monitor=min val_loss", run=f"run{i}")
    out = tiny.folder / "soup.pth"
    soup.main([str(tiny.folder / "run1"), str(tiny.folder / "run2/checkpoints/model_best.pth"), "--out", str(out)])
    assert f"{out}: the mean of 2 models" in capsys.readouterr().out
    one, two = (tiny.load("model_best.pth", run=run)["model"] for run in ("run1", "run2"))
    mean = load_model(out).state_dict()
    assert mean.keys() == one.keys()
    for name, value in mean.items():
        expected = ((one[name].double() + two[name].double()) / 2).to(value.dtype)
        assert torch.equal(value, expected if value.is_floating_point() else one[name])
    assert not torch.equal(mean["features.2.running_mean"], one["features.2.running_mean"])
    assert tiny.tested(out)["loss"] > 0
    started = tiny.build(BATCH_NORM, f"init_from={out}", run="new").model.state_dict()
    assert all(torch.equal(started[name], value) for name, value in mean.items())


def test_one_to_share_is_what_was_validated_without_the_optimizer(tiny: Tiny) -> None:
    keys = ["callbacks=[{type: EMA, args: {decay: 0.8}}]", "optimizer={type: AdamW}", "trainer.monitor=min val_loss"]
    tiny.train(BATCH_NORM, *keys)
    best, out = tiny.folder / "run/checkpoints/model_best.pth", tiny.folder / "shared.pth"
    soup.main([str(tiny.folder / "run"), "--out", str(out)])
    whole, shared = tiny.load("model_best.pth"), torch.load(out, weights_only=True)
    assert not {"optimizer", "callbacks", "raw_model"} & shared.keys()
    assert all(torch.equal(shared["model"][name], value) for name, value in whole["model"].items())
    assert tiny.tested(out) == tiny.tested(best)
    assert out.stat().st_size < best.stat().st_size / 2


def test_runs_of_several_seeds(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    """From random weights of their own, their mean is useless."""
    start = tiny.folder / "start/checkpoints/checkpoint-step1.pth"
    tiny.train("trainer.max_steps=1", run="start")
    for seed in (1, 2):
        tiny.train("trainer.max_steps=1", f"seed={seed}", run=f"own{seed}")
        tiny.train("trainer.max_steps=1", f"seed={seed}", f"init_from={start}", run=f"same{seed}")
    for name, warned in (("own", True), ("same", False)):
        soup.main([*(str(tiny.folder / f"{name}{i}") for i in (1, 2)), "--out", str(tiny.folder / f"{name}.pth")])
        assert ("warning: these runs have the seeds 1, 2" in capsys.readouterr().out) == warned


def test_what_it_does_not_accept(tiny: Tiny) -> None:
    tiny.train("trainer.max_steps=1", run="small")
    tiny.train("trainer.max_steps=1", "arch.args.hidden=[8]", run="other")
    small, other, out = str(tiny.folder / "small"), str(tiny.folder / "other"), str(tiny.folder / "out.pth")
    with pytest.raises(UsageError, match=r"hold different models: layers\.0\.bias is \(\d+,\) there and"):
        soup.main([small, other, "--out", out])
    assert not Path(out).exists()
    Path(out).touch()
    with pytest.raises(UsageError, match="the file exists; give another name"):
        soup.main([small, "--out", out])
    with pytest.raises(UsageError, match="neither a run nor a checkpoint"):
        soup.main([str(tiny.folder / "nothing"), "--out", out + "2"])
