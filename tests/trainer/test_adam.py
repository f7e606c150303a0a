"""The short way to the fused kernel: the bits of torch's own, and torch's own wherever it does not fit."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from trainer import optim

KINDS = {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW}


def models() -> tuple[nn.Sequential, nn.Sequential]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3))
    return model, copy.deepcopy(model)


def gradients(*models: nn.Module, step: int) -> None:
    for model in models:
        torch.manual_seed(step)
        for p in model.parameters():
            p.grad = torch.randn_like(p)


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}, {"amsgrad": True, "maximize": True}, {"fused": False}])
def test_same_bits_as_torch(kind, options):
    ours, theirs = models()
    options = {"lr": 0.01, "fused": True} | options
    mine, reference = getattr(optim, kind)(ours.parameters(), **options), KINDS[kind](theirs.parameters(), **options)
    for step in range(10):
        gradients(ours, theirs, step=step)
        if step == 4:  # a parameter without a gradient keeps its count of steps
            next(ours.parameters()).grad = next(theirs.parameters()).grad = None
        for optimizer in (mine, reference):
            optimizer.param_groups[0]["lr"] = 0.01 / (step + 1)  # a schedule
            optimizer.step()
        assert equal(ours, theirs)
    assert mine._plain is options["fused"]
    state = zip(mine.state_dict()["state"].values(), reference.state_dict()["state"].values(), strict=True)
    assert all(torch.equal(a[key], b[key]) for a, b in state for key in b)


def test_torch_takes_over_its_state():
    ours, theirs = models()
    mine = optim.Adam(ours.parameters(), fused=True)
    for step in range(3):
        gradients(ours, step=step)
        mine.step()
    theirs.load_state_dict(ours.state_dict())
    reference = torch.optim.Adam(theirs.parameters(), fused=True)
    reference.load_state_dict(copy.deepcopy(mine.state_dict()))
    again = optim.Adam(ours.parameters(), fused=True)
    again.load_state_dict(copy.deepcopy(mine.state_dict()))
    for step in range(3, 6):
        gradients(ours, theirs, step=step)
        again.step()
        reference.step()
    assert equal(ours, theirs)


def test_what_is_unusual_goes_torchs_way():
    ours, theirs = models()
    first, last = ours[0].parameters(), ours[2].parameters()
    mine = optim.Adam(first, fused=True)
    reference = torch.optim.Adam(theirs[0].parameters(), fused=True)
    called = []
    mine.register_step_post_hook(lambda *_: called.append(1))
    for step in range(4):
        gradients(ours, theirs, step=step)
        if step == 2:  # a group that comes later has no state yet
            mine.add_param_group({"params": list(last)})
            reference.add_param_group({"params": list(theirs[2].parameters())})
        assert mine.step(lambda: torch.tensor(0.25)) == 0.25  # closures too
        reference.step()
        assert equal(ours, theirs)
    assert len(called) == 4


def test_hooks_of_all_optimizers_are_called():
    ours, _ = models()
    mine = optim.Adam(ours.parameters(), fused=True)
    called = []
    handle = register_optimizer_step_post_hook(lambda *_: called.append(1))
    for step in range(3):
        gradients(ours, step=step)
        mine.step()
    handle.remove()
    mine.step()
    assert len(called) == 3


def test_the_scaler_leaves_out_an_overflow():
    ours, _ = models()
    mine = optim.Adam(ours.parameters(), fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    for step in range(3):
        scaler.scale(ours(torch.ones(2, 7)).sum()).backward()
        before = copy.deepcopy(ours)
        if step == 1:
            next(ours.parameters()).grad = torch.full((5, 7), torch.inf)
        scaler.step(mine)
        scaler.update()
        assert equal(ours, before) == (step == 1)
        mine.zero_grad()
