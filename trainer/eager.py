"""torch's optimizers without torch._dynamo, which each of them imports: it takes a second, and serves torch.compile.

This leans on how torch 2.10 to 2.15 look inside, and only where they look so; elsewhere torch imports it as always.
Delete this file (and its lines in optim.py and adam.py), and it does so everywhere.
"""

import functools
import types
from collections.abc import Callable
from typing import Any

import torch

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
