"""The parts a config names: where each section's names are looked up, and arguments bound against signatures.

Only public names of the right kind are found, so a stranger's config can name no `os.system`. Whoever wants another
library imports its name in the project's own module.
"""

import ast
import functools
import importlib
import inspect
import json
import operator
import textwrap
import types
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from itertools import zip_longest
from pathlib import PurePath
from typing import Any, ForwardRef, NoReturn, TypeVar, Union, get_args, get_origin

from pydantic import PydanticUserError, TypeAdapter, ValidationError

from utils.schema import describe, whole
from utils.source import did_you_mean, nearest, shown

Signature = tuple[dict[str, inspect.Parameter], bool]  # parameters by name, and whether others are welcome too
PLAIN = (bool, int, float, str, type(None), list, tuple, dict, PurePath)


def _is_a(base: str) -> Callable[[Any], bool]:
    """Is a thing a class derived from the class of that full name? (Nothing is imported to know.)"""
    return lambda thing: inspect.isclass(thing) and any(_full_name(c) == base for c in thing.__mro__[1:])


def _gives(base: str) -> Callable[[Any], bool]:
    """Is a thing a function that says it returns such a class? So `from torch import load` makes no model of `load`."""

    def test(thing: Any) -> bool:
        returned = _signature(thing)[2] if inspect.isfunction(thing) else None
        return inspect.isclass(returned) and any(_full_name(c) == base for c in returned.__mro__)

    return test


def _has(*methods: str) -> Callable[[Any], bool]:
    return lambda thing: inspect.isclass(thing) and all(hasattr(thing, method) for method in methods)


def _takes(*first: str) -> Callable[[Any], bool]:
    """Is a thing a function whose parameters begin with these names? `_` is any name."""

    def test(thing: Any) -> bool:
        names = list(inspect.signature(thing).parameters) if inspect.isfunction(thing) else []
        return inspect.isfunction(thing) and all(a in ("_", b) for a, b in zip_longest(first, names[: len(first)]))

    return test


def _full_name(thing: Any) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"


@dataclass(frozen=True)
class Section:
    own: str  # the project's module, searched first
    library: str | None  # searched next
    kinds: tuple[Callable[[Any], bool], ...]  # what is a part of this section: a thing that is one of these
    given: tuple[int, int] = (0, 0)  # how many leading parameters the code gives: to a function, to a class
    filled: tuple[str, ...] = ()  # parameters that the code gives where the config does not


MODULE = "torch.nn.modules.module.Module"
OPTIMIZER = _is_a("torch.optim.optimizer.Optimizer")
SCHEDULE = _is_a("torch.optim.lr_scheduler.LRScheduler")
LOADER = _is_a("data_loader.base_data_loader.BaseDataLoader")
TRAINER = "trainer.base_trainer.BaseTrainer"
LENGTHS = ("total_steps", "T_max")

SECTIONS = {
    "arch": Section("model.model", "torchvision.models", (_is_a(MODULE), _gives(MODULE))),
    "data_loader": Section("data_loader.data_loaders", None, (LOADER,)),
    "optimizer": Section("trainer.optim", "torch.optim", (OPTIMIZER, _takes("params")), (1, 1)),
    "loss": Section("model.loss", "torch.nn", (_is_a(MODULE), _takes("_", "_")), (2, 0)),
    "metrics": Section("model.metric", "torchmetrics", (_has("update", "compute", "reset"), _takes("_", "_")), (2, 0)),
    "lr_scheduler": Section(
        "trainer.optim", "torch.optim.lr_scheduler", (SCHEDULE, _takes("optimizer")), (1, 1), LENGTHS
    ),
    "callbacks": Section("trainer.callbacks", None, (_has("after_step"), _has("during_eval"), _has("after_epoch"))),
    "trainer": Section("trainer", None, (_is_a(TRAINER),)),
}


def own_names(section: str) -> dict[str, Any]:
    """What the project's own module offers to this section."""
    return _public(SECTIONS[section].own, section)


def _library_names(section: str) -> dict[str, Any]:
    library = SECTIONS[section].library
    if section == "arch":
        models = _import("torchvision.models")
        return {name: models.get_model_builder(name) for name in models.list_models()} if models else {}
    names = _public(library, section) if library else {}
    return {name: thing for name, thing in names.items() if section != "loss" or name.endswith("Loss")}


def _public(module: str, section: str) -> dict[str, Any]:
    things = vars(_import(module) or types.SimpleNamespace())
    kinds = SECTIONS[section].kinds
    return {n: thing for n, thing in things.items() if not n.startswith("_") and any(kind(thing) for kind in kinds)}


def _import(name: str) -> Any:
    """The module, or None where there is none; an error inside it is not hidden."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as e:
        if e.name and f"{name}.".startswith(f"{e.name}."):
            return None
        raise


def find(section: str, name: str) -> Any:
    """The class or function of that name; LookupError says what there is instead."""
    own = own_names(section)
    if name in own:
        return own[name]
    library = _library_names(section)  # imported only now: torchvision and torchmetrics take a second
    if name in library:
        return library[name]
    at = SECTIONS[section]
    file = "trainer/" if at.own == "trainer" else at.own.replace(".", "/") + ".py"
    more = f", {at.library} {f'{len(library)} more' if library else 'is not installed'}" if at.library else ""
    dots = f"; for another library's, import its name in {file} and give it without dots" if "." in name else ""
    right = nearest(name, [*library, *own])
    raise LookupError(f"unknown name{did_you_mean(right)} {file} has {', '.join(own) or 'none'}{more}{dots}")


def bind(section: str, thing: Any, args: dict[str, Any]) -> tuple[dict[str, Any], list[tuple[str | None, str]]]:
    """`args` as `thing` wants them, and what is wrong: (argument, sentence), the argument None if one is missing."""
    parameters, open_ended = accepted(section, thing)
    values = dict(args)
    wrong: list[tuple[str | None, str]] = []
    meant = {name: nearest(name, parameters) for name in args if name not in parameters and not open_ended}
    takes = f"{thing.__name__} takes {', '.join(parameters) or 'no arguments'}"
    for name, value in args.items():
        if name in meant:
            wrong.append((name, f"unknown argument{did_you_mean(meant[name])} {takes}"))
        elif name in parameters and not (value is None and parameters[name].default is None):
            annotation = _plain(parameters[name].annotation)
            try:
                values[name] = converted(value, annotation)
            except ValidationError:
                wrong.append((name, f"{shown(value)} was given; {describe(annotation)} is accepted"))
    for name, parameter in parameters.items():
        needed = parameter.default is parameter.empty and name not in SECTIONS[section].filled
        if needed and name not in args and name not in meant.values():
            wrong.append((None, f"the argument `{name}` is missing; {takes}"))
    return values, wrong


def accepted(section: str, thing: Any) -> Signature:
    """The parameters of `thing` that are the config's to give, and whether it takes any others besides."""
    parameters, open_ended = _parameters(thing)
    hidden = set(list(parameters)[: SECTIONS[section].given[inspect.isclass(thing)]])
    if section == "trainer":  # BaseTrainer's own are given by train.py
        base = next(c for c in thing.__mro__ if _full_name(c) == TRAINER)
        hidden |= _parameters(base)[0].keys()
    return {name: p for name, p in parameters.items() if name not in hidden}, open_ended


def _parameters(thing: Any) -> Signature:
    """All parameters. The `**kwargs` of a function are taken for those of the class that it says it returns."""
    if inspect.isclass(thing):
        return _of_inits([vars(c)["__init__"] for c in thing.__mro__ if "__init__" in vars(c)])
    own, more, returned = _signature(thing)
    if more and inspect.isclass(returned):
        inner, more = _parameters(returned)
        # those without a default (`block`, `layers` of a ResNet) are what the function itself is there to give
        own |= {name: p for name, p in inner.items() if p.default is not p.empty and name not in own}
    return own, more


def _of_inits(inits: list[Callable]) -> Signature:
    """The parameters of the first __init__, and of the next ones as far as `**kwargs` are handed to super()."""
    if inits[0] is object.__init__:
        return {}, False
    own, more, _ = _signature(inits[0])
    own.pop(next(iter(own)))  # self
    handed = _handed_on(inits[0]) if more else None
    if handed:
        inner, more = _of_inits(inits[1:])
        count, keywords = handed
        own |= {n: p for i, (n, p) in enumerate(inner.items()) if i >= count and n not in keywords and n not in own}
    return own, more


def _signature(call: Callable) -> tuple[dict[str, inspect.Parameter], bool, Any]:
    """(parameters that can be given by name, whether there is a `**kwargs`, return annotation)"""
    try:
        signature = inspect.signature(call, eval_str=True)
    except (NameError, TypeError, AttributeError):  # an annotation for type checkers only: its values go unchecked
        signature = inspect.signature(call)
    parameters = signature.parameters.values()
    named = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return named, any(p.kind is p.VAR_KEYWORD for p in parameters), signature.return_annotation


def _handed_on(init: Callable) -> tuple[int, set[str]] | None:
    """How many positional and which keyword arguments `super().__init__(..., **kwargs)` in `init` gives itself; None
    if there is no such call, or no source to see it in."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(init)))
    except (OSError, TypeError, SyntaxError):
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "super().__init__":
            keywords = {keyword.arg for keyword in node.keywords}
            if None in keywords:  # that is how ast spells **kwargs
                count = sum(not isinstance(argument, ast.Starred) for argument in node.args)
                return count, {keyword for keyword in keywords if keyword}
    return None


def converted(value: Any, annotation: Any) -> Any:
    """`value` as a `_plain` annotation wants it (a list as a tuple, ...); ValidationError if it cannot be."""
    if annotation in (Any, NoReturn):
        return value
    try:
        adapter: TypeAdapter = TypeAdapter(annotation)
    except PydanticUserError:
        return value
    return adapter.validate_json(json.dumps(whole(value) if annotation is int else value), strict=True)


def _plain(annotation: Any) -> Any:
    """`annotation` without what no config can hold: Tensor | float -> float, Tensor -> NoReturn. Any: not checked."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation is inspect.Parameter.empty or isinstance(annotation, (str, ForwardRef, TypeVar)):
        return Any
    if origin in (Callable, type):
        return NoReturn
    if origin in (Union, types.UnionType):
        members = tuple(member for member in map(_plain, inner) if member is not NoReturn)
        return Any if Any in members else functools.reduce(operator.or_, members) if members else NoReturn
    if origin in (list, tuple, dict) and inner:
        members = tuple(member if member is ... else _plain(member) for member in inner)
        return NoReturn if NoReturn in members else origin[members]
    if inspect.isclass(annotation) and origin is None:
        if issubclass(annotation, Enum):
            return Any  # how it is spelled is between the library and its enum
        return annotation if issubclass(annotation, PLAIN) else NoReturn
    return annotation
