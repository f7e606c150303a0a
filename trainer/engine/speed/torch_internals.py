"""Shortcuts through torch's Python, bit for bit what torch does: for small models, half of a step.

This leans on private names of torch 2.10 to 2.15, and only where they look as expected; elsewhere torch's own
code runs. Delete this file, and it runs everywhere (kernels.py).

- Optimizers import torch._dynamo, which takes a second and serves torch.compile only: `fast_optimizer` avoids it.
- Adam's Python around its fused kernel takes three times as long as the kernel: `Adam` and `AdamW` call it at once.
- Tensor.backward takes a tenth of the backward pass of a small model before it starts: `backward` calls the engine.
- nn.utils.get_total_norm stacks the norms, for which small models wait longer than for the norms: `total_norm`.
"""

import functools
import math
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer, optimizer


def total_norm(tensors: Sequence[Tensor]) -> float:
    """The norm of all these tensors together. Waits for the device."""
    return math.hypot(*(n.item() for n in torch._foreach_norm(list(tensors)))) if tensors else 0.0


def backward(loss: Tensor) -> None:
    """loss.backward(), of which the Python before the engine starts takes a tenth for a small model."""
    compiling = "torch._dynamo" in sys.modules  # then that Python also tells a GPU's thread what is set for it
    if _engine is None or compiling or type(loss) is not Tensor or loss.dim():
        loss.backward()
    else:
        kind = loss.dtype, loss.device
        if (one := _ones.get(kind)) is None:
            one = _ones[kind] = torch.ones_like(loss)
        _engine((loss,), (one,), False, False, (), allow_unreachable=True, accumulate_grad=True)


_engine: Any = getattr(getattr(torch.autograd.Variable, "_execution_engine", None), "run_backward", None)
_ones: dict[Any, Tensor] = {}  # the gradient of a loss with respect to itself


# -- optimizers -------------------------------------------------------------------------------------------------------

METHODS = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")  # which torch.compile is to leave alone


def _spare_dynamo(optimizer: type) -> None:
    """Let optimizers of this class do without dynamo."""
    for owner in optimizer.__mro__:
        for name in METHODS:
            function = getattr(vars(owner).get(name), "__wrapped__", None)
            if isinstance(function, types.FunctionType):
                vars(function).setdefault("__dynamo_disable", function)  # where torch puts what it imports dynamo for
        if "step" in vars(owner):
            owner.step = _without_dynamo(owner.step)  # type: ignore[attr-defined]


def _without_dynamo(function: Callable[..., Any]) -> Callable[..., Any]:
    """A `step` of torch.optim without the wrapper that imports dynamo; the function itself where it has another."""
    plain, code = getattr(function, "__wrapped__", None), getattr(function, "__code__", None)
    if plain is None or hasattr(plain, "__wrapped__") or "torch._dynamo" not in getattr(code, "co_names", ()):
        return function

    @functools.wraps(plain)
    def without(self: Any, *args: Any, **kwargs: Any) -> Any:
        with torch.set_grad_enabled(self.defaults["differentiable"]):  # what else the wrapper does
            return plain(self, *args, **kwargs)

    return without


_ONE = torch.ones(())
_HOOKS = optimizer._global_optimizer_pre_hooks, optimizer._global_optimizer_post_hooks  # of all optimizers


class _Short(Optimizer):
    """The step of a fused Adam: the kernel at once where nothing else is asked for, else torch's own."""

    _plain: bool | None = None  # may the kernel be called at once? None: not known yet
    _long = Optimizer.profile_hook_step(_without_dynamo(torch.optim.Adam.step))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        self._plain = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._plain = None

    def step(self, closure: Any = None) -> Any:
        if self._plain is None:  # the first step: it makes the state, too
            self._plain = self._is_plain()
            return self._long(closure)
        hooks = self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks or any(_HOOKS)
        if not self._plain or closure is not None or hooks or getattr(self, "found_inf", None) is not None:
            return self._long(closure)
        work = []
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            states = [self.state[p] for p in params]
            if not all(states):  # a first gradient
                return self._long(closure)
            if params:
                work.append((group, params, states))
        with torch.no_grad():
            for group, params, states in work:
                beta1, beta2 = group["betas"]
                steps = [state["step"] for state in states]
                if params[0].device.type == "cpu":
                    for step in steps:  # twice as fast as all at once, which makes a tensor of each 1
                        step.add_(_ONE)
                else:
                    torch._foreach_add_(steps, 1)
                (torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_)(
                    params,
                    [p.grad for p in params],
                    [state["exp_avg"] for state in states],
                    [state["exp_avg_sq"] for state in states],
                    [state["max_exp_avg_sq"] for state in states] if group["amsgrad"] else [],
                    steps,
                    lr=group["lr"],
                    beta1=beta1,
                    beta2=beta2,
                    weight_decay=group["weight_decay"],
                    eps=group["eps"],
                    amsgrad=group["amsgrad"],
                    maximize=group["maximize"],
                )
        return None

    step.hooked = True  # type: ignore[attr-defined] # else torch wraps it for hooks, which `_long` is for

    def _is_plain(self) -> bool:
        """Is it fused, with numbers as options, and each group of one device and one kind of real tensors?"""
        return hasattr(torch, "_fused_adam_") and all(
            group["fused"]
            and not (group["capturable"] or group["differentiable"])
            and not any(isinstance(value, Tensor) for value in (group["lr"], *group["betas"]))
            and {(type(p), p.is_complex()) for p in group["params"]} == {(nn.Parameter, False)}
            and len({(p.device, p.dtype) for p in group["params"]}) == 1
            for group in self.param_groups
        )


class Adam(_Short, torch.optim.Adam):
    """torch.optim.Adam."""


class AdamW(_Short, torch.optim.AdamW):
    """torch.optim.AdamW."""


def fast_optimizer(optimizer: type) -> type:
    """A class whose objects do what those of `optimizer` do, bit for bit, in less time."""
    fast = {torch.optim.Adam: Adam, torch.optim.AdamW: AdamW}.get(optimizer, optimizer)
    _spare_dynamo(fast)
    return fast
