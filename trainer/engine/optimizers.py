"""Builds the optimizer of a config, or several, each for a submodule."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from trainer.engine import kernels
from trainer.parallel import strategy
from utils.errors import UsageError


def build_optimizer(config: Any, model: nn.Module, criterion: Any = None) -> Optimizer | dict[str, Optimizer]:
    """The optimizer of the config; where it names several, {submodule: optimizer}, each for that part of the model.

    It gets frozen parameters too, and leaves them alone while they have no gradient: a callback may unfreeze them. The
    parameters of the criterion are trained with those of the model. Raises UsageError where it cannot train them.
    """
    spec = config.run.optimizer
    device = next((p.device for p in model.parameters()), None)
    of_loss = list(criterion.to(device).parameters()) if isinstance(criterion, nn.Module) else []
    if not any(p.requires_grad for p in [*model.parameters(), *of_loss]):
        raise UsageError(f"arch: {config.run.arch.type} has no trainable parameter: all are frozen, or there are none")
    if not isinstance(spec, Mapping):
        return _build(config, spec, [model], of_loss)
    if any(p.requires_grad for p in of_loss):
        raise UsageError(
            f"loss: {config.run.loss.type} has parameters of its own, which none of the optimizers "
            f"{', '.join(spec)} trains; give one optimizer, or make the loss a submodule of the model"
        )
    return {name: _build(config, part, [model.get_submodule(name)], []) for name, part in spec.items()}


def _build(config: Any, part: Any, modules: Sequence[nn.Module], more: Sequence[nn.Parameter]) -> Optimizer:
    """`fused: true` where the optimizer has it and the config does not choose: less than half the time per step."""
    named = config.resolve("optimizer", part)
    parameters = [p for module in modules for p in module.parameters()] + list(more)
    _check(part.type, named, modules[0])
    chosen = {"fused", "foreach", "differentiable", "capturable"} & part.args.keys()
    only = strategy(config.run.trainer).fused_optimizers
    has_kernel = part.type != "Adagrad" and (only is None or part.type in only)  # Adagrad's is for the CPU only
    dense = all(p.is_floating_point() for p in parameters) and not any(_sparse(m) for m in modules)
    fused = "fused" in inspect.signature(named).parameters and not chosen and has_kernel and dense
    fast = kernels.fast_optimizer if isinstance(named, type) else None
    return config.build_part("optimizer", part, parameters, substitute=fast, **({"fused": True} if fused else {}))


def _check(name: str, named: Any, module: nn.Module) -> None:
    step = inspect.signature(named.step).parameters if hasattr(named, "step") else {}
    if "closure" in step and step["closure"].default is inspect.Parameter.empty:
        raise UsageError(
            f"optimizer: {name} evaluates the model several times per step (step(closure)), and train_step does so "
            f"once; use another optimizer, such as AdamW"
        )
    other = [key for key, p in module.named_parameters() if p.dim() != 2]
    if name == "Muon" and other:
        raise UsageError(
            f"optimizer: Muon is for matrices only, and the model has other parameters ({', '.join(other[:3])}); use "
            f"AdamW, or a class in trainer/optim.py that gives matrices to Muon and the rest to AdamW"
        )


def _sparse(module: nn.Module) -> bool:
    """Does an embedding in it give sparse gradients, which no fused kernel takes?"""
    return any(getattr(m, "sparse", False) is True for m in module.modules())
