"""Batches of any form as (inputs, targets), and inputs of several tensors as the arguments of a model."""

import dataclasses
import functools
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from utils.errors import UsageError
from utils.tensors import unwrap

NO_INPUTS = ("id", "idx", "index")
TARGETS = ("labels", "label", "targets", "target", "y", "mask", "masks")  # names of the targets in a dict
POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def pair(batch: Any, model: nn.Module) -> Any:
    """(inputs, targets) of a batch: of a dict or dataclass, of (x1, x2, y) for a model of two arguments, of x alone.

    In eval mode there may be no targets: None. Raises UsageError, with the code to write, where it is not clear.
    """
    if isinstance(batch, Tensor):  # of an autoencoder: what goes in is to come out
        return batch, batch
    if isinstance(batch, (list, tuple)):
        return _of_sequence(batch, model)
    if dataclasses.is_dataclass(batch):
        batch = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    if not isinstance(batch, Mapping):
        raise _unknown(["batch.x", "batch.y"], f"a {type(batch).__name__}")
    named = [name for name in TARGETS if name in batch]
    others = [name for name, value in batch.items() if name not in (*named, *NO_INPUTS) and isinstance(value, Tensor)]
    known = _parameters(unwrap(model))
    arguments = [name for name in others if name in known]
    inputs = {name: batch[name] for name in arguments or others}
    if model.training and (not inputs or len(named) != 1):
        places = [f"batch[{name!r}]" for name in batch]
        raise _unknown([*places, *places], f"a {type(batch).__name__} with {', '.join(map(str, batch))}")
    targets = batch[named[0]] if named else None
    return next(iter(inputs.values())) if len(inputs) == 1 else inputs, targets


def _of_sequence(batch: Any, model: nn.Module) -> Any:
    if len(batch) == 1:
        return batch[0], batch[0]
    if len(batch) == 2 and (model.training or not isinstance(batch[0], Tensor)):
        return batch
    arguments = len(_required(unwrap(model)))
    if len(batch) == arguments > 1:
        return tuple(batch), None
    if len(batch) == 2:
        return batch
    if len(batch) == arguments + 1:
        return tuple(batch[:-1]), batch[-1]
    if not model.training:
        return batch
    raise _unknown([f"batch[{i}]" for i in range(len(batch))], f"a {type(batch).__name__} of {len(batch)}")


def _unknown(places: list[str], what: str) -> UsageError:
    return UsageError(
        f"data_loader: a batch is {what}, and the trainer takes (inputs, targets). Give it these in a trainer of your "
        f"own, such as trainer/mine.py with trainer.type=MyTrainer:\n"
        f"    from trainer import Trainer\n\n"
        f"    class MyTrainer(Trainer):\n"
        f"        def unpack(self, batch):\n"
        f"            return {places[0]}, {places[1]}  # inputs, targets"
    )


def spread_inputs(model: nn.Module) -> None:
    """Let `model(inputs)` call a forward(x1, x2) with the entries of a tuple, or a dict by their names.

    Only where the call would fail otherwise: it lacks an argument, or each name in the dict is one of the arguments.
    """
    names = _parameters(model).keys()
    if len(names) > 1 and not isinstance(model, torch.jit.ScriptModule):
        hook = functools.partial(_spread, len(_required(model)), frozenset(names))
        model.register_forward_pre_hook(hook, with_kwargs=True)


def _spread(required: int, names: frozenset[str], module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
    """A hook by this name, not within spread_inputs, so that a model can be pickled."""
    if len(args) == 1 and not kwargs:
        (inputs,) = args
        if isinstance(inputs, (list, tuple)) and len(inputs) == required > 1:
            return tuple(inputs), {}
        if isinstance(inputs, Mapping) and len(inputs) > 1 and inputs.keys() <= names:
            return (), dict(inputs)
    return None


def _required(model: nn.Module) -> list[str]:
    """The arguments that a call of the model must have."""
    return [p.name for p in _parameters(model).values() if p.kind in POSITIONAL and p.default is p.empty]


def _parameters(model: nn.Module) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(model.forward).parameters
    except (TypeError, ValueError):  # of TorchScript
        return {}
