"""Shorter ways through torch's Python: optimizers without torch._dynamo, which each of them imports (it takes a second,
and serves torch.compile), and a backward pass that begins at once.

This leans on how torch 2.10 to 2.15 look inside, and only where they look so; elsewhere torch goes its own way. Delete
this file (and its lines in optim.py, adam.py and base_trainer.py), and it does so everywhere.
"""

import functools
import sys
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

METHODS = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")  # which torch.compile is to leave alone


def spare(optimizer: type) -> None:
    """Let optimizers of this class do without dynamo; call it before one is made."""
    for owner in optimizer.__mro__:
        for name in METHODS:
            function = getattr(vars(owner).get(name), "__wrapped__", None)
            if isinstance(function, types.FunctionType):
                vars(function).setdefault("__dynamo_disable", function)  # where torch puts what it imports dynamo for
        if "step" in vars(owner):
            owner.step = step(owner.step)  # type: ignore[attr-defined]


def step(function: Callable[..., Any]) -> Callable[..., Any]:
    """A `step` of torch.optim without the wrapper that imports dynamo; the function itself where it has another."""
    plain, code = getattr(function, "__wrapped__", None), getattr(function, "__code__", None)
    if plain is None or hasattr(plain, "__wrapped__") or "torch._dynamo" not in getattr(code, "co_names", ()):
        return function

    @functools.wraps(plain)
    def without(self: Any, *args: Any, **kwargs: Any) -> Any:
        with torch.set_grad_enabled(self.defaults["differentiable"]):  # what else the wrapper does
            return plain(self, *args, **kwargs)

    return without


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
