"""A data set of your own under `data_loader`: a config names its class, or a function that returns it. `args` holds its
arguments and those of the `BaseDataLoader` around it."""

import importlib
import inspect
from collections.abc import Callable
from typing import Any

from utils.config.signatures import Signature, signature_of
from utils.config.values import derives, is_a

LOADER = "data_loader.engine.base_data_loader.BaseDataLoader"
DATASET = "torch.utils.data.dataset.Dataset"
BUILDER = "data_loader.engine.data_sets"


def reads_samples(cls: type) -> bool:
    """Whether it is a class of data sets: derived from torch's Dataset, or with `__getitem__` and `__len__`."""
    methods = {name for c in cls.__mro__ for name in vars(c)}
    return derives(cls, DATASET) or {"__getitem__", "__len__"} <= methods


def makes_data_set(thing: Any) -> bool:
    """Whether what a config names under `data_loader` makes a data set, or may do so: a function that neither says what
    it returns, nor accepts a batch size."""
    if inspect.isclass(thing):
        return not is_a(thing, LOADER)
    signature = signature_of(thing)
    return not (is_a(signature.returns, LOADER) or "batch_size" in signature.parameters or signature.open_ended)


def signature_with_loader(thing: Any) -> Signature:
    """The arguments of the data set, then those of BaseDataLoader."""
    own = signature_of(thing)
    of_loader = {name: p for name, p in _of_loader().items() if name not in own.parameters}
    if not inspect.isclass(thing) and "batch_size" in of_loader:  # it may make a loader, with a size of its own
        of_loader["batch_size"] = of_loader["batch_size"].replace(default=None)
    parameters = dict(own.parameters)
    if _needs_training(own):
        parameters["training"] = own.parameters["training"].replace(default=True)
    return own._replace(parameters=parameters | of_loader, out_of_reach=())


def with_loader(name: str, thing: Any) -> Callable[..., Any]:
    """A function that builds a data set and the loader around it, from the arguments of both."""
    own, of_loader = signature_of(thing), _of_loader()

    def build(**values: Any) -> Any:
        options = {n: value for n, value in values.items() if n in of_loader and n not in own.parameters}
        arguments = {n: value for n, value in values.items() if n not in options}
        if _needs_training(own):
            arguments.setdefault("training", True)
        return importlib.import_module(BUILDER).loader_of(name, thing(**arguments), options)

    return build


def _needs_training(own: Signature) -> bool:
    return "training" in own.parameters and own.parameters["training"].default is inspect.Parameter.empty


def _of_loader() -> dict[str, inspect.Parameter]:
    module, _, base = LOADER.rpartition(".")
    parameters = signature_of(getattr(importlib.import_module(module), base)).parameters
    return {name: p for name, p in parameters.items() if name != "dataset"}
