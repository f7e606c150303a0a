"""Adam and AdamW, bit for bit those of torch.optim, with a shorter way to their fused kernel.

For a small model most of torch's step is Python that prepares for cases that are not there: it takes three times as
long as the kernel. Delete this file (and its line in optim.py), and torch's own are used.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer, optimizer

from trainer import eager

_ONE = torch.ones(())
_HOOKS = optimizer._global_optimizer_pre_hooks, optimizer._global_optimizer_post_hooks  # of all optimizers


class _Short(Optimizer):
    """The step of a fused Adam: the kernel at once where nothing else is asked for, else torch's own."""

    _plain: bool | None = None  # may the kernel be called at once? None: not known yet
    _long = Optimizer.profile_hook_step(eager.step(torch.optim.Adam.step))

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
