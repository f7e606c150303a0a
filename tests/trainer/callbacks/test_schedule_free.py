"""Schedule-free optimizers: their own loop by hand, what is validated and saved, batch norm, a resume, and ranks."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.tiny import Tiny, tiny
from tests.trainer.parallel.ranks import on_ranks, trained
from trainer import load_model
from utils.errors import UsageError

__all__ = ["tiny"]
schedulefree = pytest.importorskip("schedulefree", reason="the extra `schedulefree`")
ADAMW = "optimizer={type: AdamWScheduleFree, args: {lr: 0.01, warmup_steps: 3}}"
FREE = [ADAMW, "callbacks=[ScheduleFree]"]
BATCH_NORM = "arch={type: ConvNet, args: {widths: [4], depth: 1}}"


@pytest.mark.parametrize("name, lr", [("AdamWScheduleFree", 0.01), ("SGDScheduleFree", 0.5)])
def test_it_trains_and_evaluates_as_a_loop_by_hand(name: str, lr: float, tiny: Tiny) -> None:
    """Bit for bit; however often it is validated."""
    keys = [f"optimizer={{type: {name}, args: {{lr: {lr}, weight_decay: 0.1}}}}", "callbacks=[ScheduleFree]"]
    trainer = tiny.build(*keys, run="by hand")
    net = copy.deepcopy(trainer.model).train()
    optimizer = getattr(schedulefree, name)(net.parameters(), lr=lr, weight_decay=0.1)
    optimizer.train()
    stream = trainer.data_loader.iter_steps(0)
    for _ in range(12):
        inputs, targets = next(stream).data
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(inputs), targets).backward()
        optimizer.step()
    stream.close()
    done = tiny.train(*keys, "trainer.valid_steps=1", "trainer.save_steps=5")
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), done.model.parameters(), strict=True))
    optimizer.eval()
    saved = load_model(tiny.folder / "run/checkpoints/checkpoint-step12.pth")
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), saved.parameters(), strict=True))
    done.callbacks.clear()
    done.model.load_state_dict(net.state_dict())
    expected = done.evaluate(done.valid_data_loader)
    assert {name: tiny.points("valid")[-1][name] for name in expected} == expected


def test_batch_norm_has_the_statistics_of_what_is_evaluated(tiny: Tiny) -> None:
    done = tiny.train(BATCH_NORM, *FREE)
    net = load_model(tiny.folder / "run/checkpoints/checkpoint-step12.pth")
    expected = copy.deepcopy(net)
    stream = done.data_loader.iter_steps(12)
    torch.optim.swa_utils.update_bn((next(stream).data for _ in range(6)), expected)
    stream.close()
    state = expected.state_dict()
    for name, value in net.state_dict().items():  # up to the order of summation: another memory format
        torch.testing.assert_close(value, state[name], rtol=1e-5, atol=1e-6)
    assert not torch.equal(state["features.2.running_mean"], done.model.features[2].running_mean)
    tested = tiny.tested(tiny.folder / "run/checkpoints/checkpoint-step12.pth")
    assert 0 < tested["loss"] < 3


@pytest.mark.slow
@pytest.mark.parametrize("step", [4, 6, 7])
def test_a_resume_is_exact(tiny: Tiny, step: int) -> None:
    keys = [BATCH_NORM, *FREE, "trainer.log_steps=1"]
    whole = tiny.train(*keys, run="whole")
    tiny.train(*keys, f"trainer.max_steps={step}")
    resumed = tiny.train(*keys)
    one, two = whole.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert tiny.points("valid")[-1] == tiny.points("valid", "whole")[-1]
    states = [tiny.load("checkpoint-step12.pth", run)["model"] for run in ("run", "whole")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_what_is_refused(tiny: Tiny) -> None:
    with pytest.raises(UsageError, match=r"AdamWScheduleFree has other weights .* add callbacks: \[ScheduleFree\]"):
        tiny.build(ADAMW)
    with pytest.raises(UsageError, match=r"ScheduleFree is for the optimizers of schedulefree, and this run has SGD"):
        tiny.train("callbacks=[ScheduleFree]")


def test_parameter_groups(tiny: Tiny) -> None:
    groups = ADAMW[:-1] + ", groups: [{match: layers.2, lr: 0.1}], no_decay: true}"
    done = tiny.train(groups, "callbacks=[ScheduleFree, {type: Freeze, args: {freeze: [layers.0], until_step: 4}}]")
    assert {g["name"]: g["k"] for g in done.optimizer.param_groups} == {"": 12, "layers_2": 12}
    assert tiny.points("train")[0].keys() >= {"lr", "lr_layers_2"}


@pytest.mark.slow
@pytest.mark.parametrize("more", [["trainer.parallel=ddp"], ["trainer.parallel=fsdp"], ["trainer.accumulate=2"]])
def test_ranks_agree(more: list[str], tmp_path: Path) -> None:
    keys = ["arch={type: MLP, args: {in_features: 64, hidden: [16]}}", *FREE, "trainer.valid_steps=3"]
    one: Any = trained(keys)
    two = on_ranks(2, trained, [*keys, *more], tmp_path)
    assert [type(found) for found in two] == [dict, dict], two
    for name, value in one["weights"].items():
        np.testing.assert_allclose(two[0]["weights"][name], value, rtol=0, atol=1e-6)
    mine, other = ([v["loss"] for split, _, v in r["points"] if split == "valid"] for r in (one, two[0]))
    assert mine == pytest.approx(other, rel=1e-6)
