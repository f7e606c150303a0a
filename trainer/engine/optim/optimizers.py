"""Builds the optimizer of a config, or several, each for a submodule."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from trainer.engine.optim import groups
from trainer.engine.optim.groups import Named
from trainer.engine.speed import kernels
from trainer.parallel import strategy
from utils.errors import UsageError


def build_optimizer(config: Any, model: nn.Module, criterion: Any = None) -> Optimizer | dict[str, Optimizer]:
    """The optimizer of the config; where it names several, {submodule: optimizer}, each for that part of the model.

    It gets frozen parameters too, and leaves them alone while they have no gradient: a callback may unfreeze them. The
    parameters of the criterion are trained with those of the model. Raises UsageError where it cannot train them.
    """
    spec, of_loss = config.run.optimizer, list[tuple[str, nn.Parameter]]()
    if isinstance(criterion, nn.Module):
        device = next((p.device for p in model.parameters()), None)
        of_loss = [*criterion.to(device).named_parameters("loss")]
    named = [*model.named_parameters(), *of_loss]
    if not any(p.requires_grad for _, p in named):
        raise UsageError(
            f"arch: {config.run.arch.type} has no trainable parameter: all are frozen, or there are none. Layers "
            f"belong in __init__ as attributes or in nn.ModuleList, not in a plain list"
        )
    if not isinstance(spec, Mapping):
        return _build(config, spec, model, named, "optimizer")
    if any(p.requires_grad for _, p in of_loss):
        raise UsageError(
            f"loss: {config.run.loss.type} has parameters of its own, which none of the optimizers "
            f"{', '.join(spec)} trains; give one optimizer, or make the loss a submodule of the model"
        )
    built = {}
    for name, part in spec.items():
        module = model.get_submodule(name)
        built[name] = _build(config, part, module, [*module.named_parameters(name)], f"optimizer.{name}")
    return built


def _build(config: Any, part: Any, module: nn.Module, parameters: Named, key: str) -> Optimizer:
    """`fused: true` where the optimizer has it and the config does not choose: less than half the time per step."""
    named = config.resolve("optimizer", part)
    _check(part.type, named, module, config.run.trainer.type)
    chosen = {"fused", "foreach", "differentiable", "capturable"} & part.args.keys()
    only = strategy(config.run.trainer).fused_optimizers
    has_kernel = part.type != "Adagrad" and (only is None or part.type in only)  # Adagrad's is for the CPU only
    dense = all(p.is_floating_point() for _, p in parameters) and not _sparse(module)
    fused = "fused" in inspect.signature(named).parameters and not chosen and has_kernel and dense
    fast = kernels.fast_optimizer if isinstance(named, type) else None
    given = {"fused": True} if fused else {}
    with_names = "named_parameters" in inspect.signature(named).parameters  # pairs (name, parameter)
    if not groups.has_groups(part):
        what = parameters if with_names else [p for _, p in parameters]
        optimizer = config.build_part("optimizer", part, what, substitute=fast, **given)
    else:
        options = config.options_of_groups(part)
        split = groups.split(part, options, parameters, module, key)
        for group in split if not with_names else ():
            group["params"] = [p for _, p in group["params"]]
        optimizer = config.build_part("optimizer", part, split, substitute=fast, **given)
        groups.finish(optimizer, part, options, key)
    has_two = hasattr(optimizer, "train") and hasattr(optimizer, "eval")  # as those of schedulefree
    if has_two and all(other.type != "ScheduleFree" for other in config.run.callbacks):
        raise UsageError(
            f"optimizer: {type(optimizer).__name__} has other weights for evaluation than for training; add "
            f"callbacks: [ScheduleFree], which evaluates and saves them"
        )
    return optimizer


def _check(name: str, named: Any, module: nn.Module, trainer: str) -> None:
    step = inspect.signature(named.step).parameters if hasattr(named, "step") else {}
    if "closure" in step and step["closure"].default is inspect.Parameter.empty and trainer == "Trainer":
        raise UsageError(
            f"optimizer: {name} evaluates the model several times per step (step(closure)), and train_step does so "
            f"once; use another optimizer, such as AdamW, or a trainer whose train_step calls optimizer.step(closure)"
        )
    other = [key for key, p in module.named_parameters() if p.dim() != 2]
    if name == "Muon" and other:
        raise UsageError(
            f"optimizer: Muon is for matrices only, and the model has other parameters ({', '.join(other[:3])}); use "
            f"MuonAdamW, which gives the matrices to Muon and the rest to AdamW"
        )


def _sparse(module: nn.Module) -> bool:
    """Does an embedding in it give sparse gradients, which no fused kernel takes?"""
    return any(getattr(m, "sparse", False) is True for m in module.modules())
