"""Optimizers that do without torch._dynamo step as torch's own do, and torch.compile still works with them."""

import functools
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import _use_grad_for_differentiable

from trainer import eager

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize("optimizer", ["AdamW", "SGD", "RMSprop"])
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
    eager.spare(spared)
    assert spared.step is not before
    (ours, state, calls), (theirs, their_state, _) = trained(spared, **options), trained(fresh(of), **options)
    assert all(map(torch.equal, ours, theirs))
    assert all(p.requires_grad and p.is_leaf for p in ours)
    for i, values in their_state.items():
        assert all(torch.equal(state[i][key], v) if isinstance(v, Tensor) else True for key, v in values.items())
    assert calls == ["before", "after"] * 3


def test_a_differentiable_step_keeps_its_graph() -> None:
    spared = fresh(torch.optim.SGD)
    eager.spare(spared)
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
        assert eager.step(function) is function


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch 2.10, in dynamo itself
def test_a_compiled_step_is_right() -> None:
    spared = fresh(torch.optim.SGD)
    eager.spare(spared)
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
    assert eager._engine is not None  # else the short way of this torch is another, and loss.backward() is taken
    monkeypatch.delitem(sys.modules, "torch._dynamo", raising=False)
    monkeypatch.setattr(eager, "_engine", eager._engine if there else None)
    torch.manual_seed(0)
    x, gradients = torch.randn(3, 7), list[Any]()
    for run in (eager.backward, Tensor.backward):
        w = nn.Parameter(torch.ones(7, 5))
        for _ in range(2):
            run((x @ w).tanh().square().mean())
        gradients.append(w.grad)
    assert torch.equal(*gradients)
    with pytest.raises(RuntimeError, match="grad can be implicitly created only for scalar outputs"):
        eager.backward((x @ w).sum(1))
    with pytest.raises(RuntimeError, match="does not require grad"):
        eager.backward(x.sum())


def test_backward_of_a_loss_that_is_a_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its gradient is added to, the 1 that the backward pass begins with stays."""
    monkeypatch.delitem(sys.modules, "torch._dynamo", raising=False)
    loss = nn.Parameter(torch.tensor(3.0))
    values = []
    for _ in range(3):
        eager.backward(loss)
        values.append(float(loss.grad))  # type: ignore[arg-type]
    assert values == [1, 2, 3]
    other = nn.Parameter(torch.tensor(1.0))
    eager.backward(other)
    assert other.grad == torch.ones(())
