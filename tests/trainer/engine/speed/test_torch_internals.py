"""The shortcuts through torch's Python give torch's own bits, and torch goes its own way wherever they do not fit."""

import copy
import functools
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import _use_grad_for_differentiable, register_optimizer_step_post_hook

from tests.slow import slow_but
from trainer.engine.speed import torch_internals

ROOT = Path(__file__).resolve().parents[4]


@pytest.mark.parametrize("optimizer", slow_but("AdamW".__eq__, ["AdamW", "SGD", "RMSprop"]))
def test_a_run_never_imports_dynamo(tmp_path: Path, optimizer: str) -> None:
    command = ["-c", "config/digits.yaml", f"trainer.save_dir={tmp_path}", "trainer.max_steps=3", "trainer.verbosity=0"]
    command += [f"optimizer.type={optimizer}", "optimizer.args={lr: 0.01}"]
    code = f"import sys, train; train.main({command}); print(*sorted({{'sympy', 'torch._dynamo'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
    assert list(tmp_path.glob("digits/*/checkpoints/checkpoint-step3.pth"))


def fresh(of: type) -> Any:
    """A class like one of torch.optim before any optimizer of it was made."""
    return type(of.__name__, (of,), {"step": _use_grad_for_differentiable(inspect.unwrap(of.step))})  # type: ignore


def trained(optimizer_class: Any, **options: Any) -> tuple[list[Tensor], dict[str, Any], list[str]]:
    torch.manual_seed(0)
    net, calls = nn.Linear(5, 3), []
    optimizer = optimizer_class(net.parameters(), lr=0.1, **options)
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    for _ in range(3):
        optimizer.zero_grad()
        net(torch.randn(4, 5)).square().sum().backward()
        optimizer.step()
    return list(net.parameters()), optimizer.state_dict()["state"], calls


@pytest.mark.parametrize("of", [torch.optim.SGD, torch.optim.NAdam, torch.optim.Adam])
def test_the_steps_are_those_of_torch(of: type) -> None:
    options = {"momentum": 0.9} if of is torch.optim.SGD else {}
    spared = fresh(of)
    before = spared.step
    torch_internals._spare_dynamo(spared)
    assert spared.step is not before
    (ours, state, calls), (theirs, their_state, _) = trained(spared, **options), trained(fresh(of), **options)
    assert all(map(torch.equal, ours, theirs))
    assert all(p.requires_grad and p.is_leaf for p in ours)
    for i, values in their_state.items():
        assert all(torch.equal(state[i][key], v) if isinstance(v, Tensor) else True for key, v in values.items())
    assert calls == ["before", "after"] * 3


def test_a_differentiable_step_keeps_its_graph() -> None:
    spared = fresh(torch.optim.SGD)
    torch_internals._spare_dynamo(spared)
    start = torch.ones(2, requires_grad=True)
    p = start.clone()
    p.grad, before = torch.ones(2), p.grad_fn
    spared([p], lr=0.1, differentiable=True).step()
    assert p.grad_fn is not before


def test_what_is_not_torchs_stays_as_it_is() -> None:
    def own(self: Any) -> None: ...

    @functools.wraps(own)
    def wrapped(self: Any) -> None:
        own(self)

    hooked = torch.optim.Optimizer.profile_hook_step(vars(fresh(torch.optim.SGD))["step"])
    for function in (own, wrapped, hooked, torch.no_grad()(own)):
        assert torch_internals._without_dynamo(function) is function


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch 2.10, in dynamo itself
def test_a_compiled_step_is_right() -> None:
    spared = fresh(torch.optim.SGD)
    torch_internals._spare_dynamo(spared)
    p, q = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    ours, theirs = spared([p], lr=0.1, momentum=0.9), fresh(torch.optim.SGD)([q], lr=0.1, momentum=0.9)

    @functools.partial(torch.compile, backend="eager")
    def step(x: Tensor) -> None:
        ours.zero_grad()
        (p * x).square().sum().backward()
        ours.step()

    for i in range(3):
        step(torch.full((3,), float(i)))
        theirs.zero_grad()
        (q * i).square().sum().backward()
        theirs.step()
    assert torch.equal(p, q)
    assert not torch.equal(p, torch.ones(3))


# -- the backward pass


@pytest.mark.parametrize("there", [True, False], ids=["the engine at once", "torch's own way"])
def test_backward(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    assert (
        torch_internals._engine is not None
    )  # else the short way of this torch is another, and loss.backward() is taken
    monkeypatch.delitem(sys.modules, "torch._dynamo", raising=False)
    monkeypatch.setattr(torch_internals, "_engine", torch_internals._engine if there else None)
    torch.manual_seed(0)
    x, gradients = torch.randn(3, 7), list[Any]()
    for run in (torch_internals.backward, Tensor.backward):
        w = nn.Parameter(torch.ones(7, 5))
        for _ in range(2):
            run((x @ w).tanh().square().mean())
        gradients.append(w.grad)
    assert torch.equal(*gradients)
    with pytest.raises(RuntimeError, match="grad can be implicitly created only for scalar outputs"):
        torch_internals.backward((x @ w).sum(1))
    with pytest.raises(RuntimeError, match="does not require grad"):
        torch_internals.backward(x.sum())


def test_backward_of_a_loss_that_is_a_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its gradient is added to, the 1 that the backward pass begins with stays."""
    monkeypatch.delitem(sys.modules, "torch._dynamo", raising=False)
    loss = nn.Parameter(torch.tensor(3.0))
    values = []
    for _ in range(3):
        torch_internals.backward(loss)
        values.append(float(loss.grad))  # type: ignore[arg-type]
    assert values == [1, 2, 3]
    other = nn.Parameter(torch.tensor(1.0))
    torch_internals.backward(other)
    assert other.grad == torch.ones(())


# -- the fused kernel of Adam, called at once

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
    mine = getattr(torch_internals, kind)(ours.parameters(), **options)
    reference = KINDS[kind](theirs.parameters(), **options)
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
    mine = torch_internals.Adam(ours.parameters(), fused=True)
    for step in range(3):
        gradients(ours, step=step)
        mine.step()
    theirs.load_state_dict(ours.state_dict())
    reference = torch.optim.Adam(theirs.parameters(), fused=True)
    reference.load_state_dict(copy.deepcopy(mine.state_dict()))
    again = torch_internals.Adam(ours.parameters(), fused=True)
    again.load_state_dict(copy.deepcopy(mine.state_dict()))
    for step in range(3, 6):
        gradients(ours, theirs, step=step)
        again.step()
        reference.step()
    assert equal(ours, theirs)


def test_what_is_unusual_goes_torchs_way():
    ours, theirs = models()
    first, last = ours[0].parameters(), ours[2].parameters()
    mine = torch_internals.Adam(first, fused=True)
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
    mine = torch_internals.Adam(ours.parameters(), fused=True)
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
    mine = torch_internals.Adam(ours.parameters(), fused=True)
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
