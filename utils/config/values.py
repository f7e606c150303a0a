"""Values of a config as the annotation of a parameter wants them: a list as a tuple, a name as an enum's member.

A mapping of `type` and `args` is a nested part: the object that it names, unless the annotation wants a mapping.
Where it wants a Callable or a class, the bare name is enough.
"""

import contextlib
import inspect
import os
import pathlib
import re
import types
from collections import OrderedDict, abc
from collections.abc import Callable
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

from utils.config.files import KeyPath, did_you_mean, nearest

Nested = Callable[[dict[str, Any], Any, KeyPath], Any]  # (part, annotation, place within the arguments) -> its object
LISTS: dict[Any, Callable[[list], Any]] = {
    list: list, abc.Sequence: list, abc.MutableSequence: list, abc.Iterable: list, abc.Collection: list,
    set: set, abc.Set: set, frozenset: frozenset,
}  # fmt: skip
MAPPINGS = (dict, abc.Mapping, abc.MutableMapping, OrderedDict)
UNIONS = (Union, types.UnionType)
PLAIN = (bool, int, float, str, type(None))
OF_TORCH = {  # full name of a class -> what people write for its objects
    "torch.Tensor": "a list of numbers",
    "numpy.ndarray": "a list of numbers",
    "torch.dtype": "a dtype such as float16",
    "torch.device": "a device such as cpu",
}
MODULE = "torch.nn.modules.module.Module"
OPEN = (Any, object, inspect.Parameter.empty)  # annotations that allow anything


class Misfit(ValueError):
    """A value that the annotation does not allow; says why, if that is not evident."""


def whole(value: Any) -> Any:
    """1e5 is a float to YAML and an integer to people."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def seconds(value: Any) -> Any:
    """A duration such as 30s, 90m or 8.5h in seconds; anything else as it is."""
    match = re.fullmatch(r"(\d+\.?\d*) ?([smh])", value) if isinstance(value, str) else None
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]] if match else value


def expanded(path: str) -> str:
    """Expand ~ and $VARIABLE in a path. ValueError: there is no such variable."""
    path = os.path.expanduser(os.path.expandvars(path))
    if unknown := re.search(r"\$\{?(\w+)", path):
        raise ValueError(f"the environment variable {unknown[1]} is not set")
    return path


def full_name(cls: type) -> str:
    """To know a class without importing it."""
    return f"{cls.__module__}.{cls.__qualname__}"


def is_a(cls: Any, name: str) -> bool:
    """Is it a class of this full name, or derived from it?"""
    return inspect.isclass(cls) and name in map(full_name, cls.__mro__)


def derives(cls: type, name: str) -> bool:
    """Is it derived from the class of this full name, and not that class itself?"""
    return is_a(cls, name) and full_name(cls) != name


def is_part(value: Any) -> bool:
    """Is it a mapping of exactly `type` and, if it has any, `args`?"""
    if not isinstance(value, dict) or not value.keys() <= {"type", "args"}:
        return False
    return isinstance(value.get("type"), str) and isinstance(value.get("args"), dict | None)


def wants_factory(wanted: Any) -> bool:
    """Whether a nested part is to be the class itself: `type[X]`, or a Callable that returns a torch.nn.Module."""
    origin, inner = get_origin(wanted) or wanted, get_args(wanted)
    return origin is type or (origin is abc.Callable and is_a(inner[-1] if inner else None, MODULE))


def convert(value: Any, wanted: Any, nested: Nested, at: KeyPath = ()) -> Any:
    """`value` as the annotation `wanted` has it, or Misfit. nested: gives the objects of nested parts."""
    wanted = getattr(wanted, "__supertype__", wanted)  # of a NewType
    origin, inner = get_origin(wanted) or wanted, get_args(wanted)
    if origin in UNIONS:
        return _member(value, inner, nested, at)
    if origin is Annotated:
        return convert(value, inner[0], nested, at)
    if origin is Literal:
        return _if(any(_same(value, choice) for choice in inner), value)
    if origin in LISTS or origin is tuple:
        return _list(_if(isinstance(value, list), value), origin, inner, nested, at)
    if origin in MAPPINGS or is_typeddict(origin):
        return _mapping(_if(isinstance(value, dict), value), origin, inner, nested, at)
    if inspect.isclass(origin) and origin not in OPEN:
        return _of_class(value, wanted, origin, nested, at)
    return _of_any(value, nested, at)


def _of_any(value: Any, nested: Nested, at: KeyPath) -> Any:
    if isinstance(value, list):
        return [_of_any(entry, nested, (*at, i)) for i, entry in enumerate(value)]
    if isinstance(value, str) and value.startswith("torch."):  # torch's layers do not annotate dtype
        with contextlib.suppress(Misfit):
            return _of_torch(value, "torch.dtype")
    return nested(value, Any, at) if is_part(value) else value


def _if(fits: bool, value: Any) -> Any:
    if not fits:
        raise Misfit
    return value


def _member(value: Any, members: tuple[Any, ...], nested: Nested, at: KeyPath) -> Any:
    """By the first member of a union that allows it: the value's own type first, then plain types and containers."""

    def rank(member: Any) -> int:
        origin = get_origin(member) or member
        return 0 if origin is type(value) else 1 if origin in PLAIN or origin in LISTS or origin in MAPPINGS else 2

    why = ""
    for member in sorted(members, key=rank):
        try:
            return convert(value, member, nested, at)
        except Misfit as e:
            why = str(e) or why
    raise Misfit(why)


def _list(value: list[Any], origin: Any, inner: tuple[Any, ...], nested: Nested, at: KeyPath) -> Any:
    members = list(inner[:1] or (Any,)) * len(value)
    if origin is tuple and inner and inner[-1] is not ...:
        members = list(_if(len(inner) == len(value), inner))
    entries = [convert(v, m, nested, (*at, i)) for i, (v, m) in enumerate(zip(value, members, strict=True))]
    return LISTS.get(origin, tuple)(entries)


def _mapping(value: dict[str, Any], origin: Any, inner: tuple[Any, ...], nested: Nested, at: KeyPath) -> Any:
    hints: dict[str, Any] = {}
    if is_typeddict(origin):
        hints = get_type_hints(origin)
        _if(origin.__required_keys__ <= value.keys() <= hints.keys(), value)
    elif not inner or inner[1] in OPEN:
        return value  # nested parts in it are its own business
    keys = {key: convert(_number(key), inner[0], nested) if inner[:1] in [(int,), (float,)] else key for key in value}
    return {keys[k]: convert(v, hints[k] if hints else inner[1], nested, (*at, k)) for k, v in value.items()}


def _number(key: str) -> Any:
    """The key as a number, if it is one: in a config, keys are strings."""
    try:
        return float(key)
    except ValueError:
        return key


def _of_class(value: Any, wanted: Any, cls: Any, nested: Nested, at: KeyPath) -> Any:
    if cls in PLAIN:
        return _plain(value, cls)
    if issubclass(cls, Enum):
        name = str(value).removeprefix(f"{cls.__name__}.")
        found = [m for key, m in cls.__members__.items() if key == name or _same(m.value, value)]
        return _if(bool(found), found)[0]
    if isinstance(value, str) and issubclass(cls, os.PathLike):
        try:
            return (pathlib.Path if cls is os.PathLike else cls)(expanded(value))
        except ValueError as e:
            raise Misfit(str(e)) from None
    if full_name(cls) in OF_TORCH:
        return _of_torch(value, full_name(cls))
    if is_part(value):
        return nested(value, wanted, at)
    if isinstance(value, str) and cls in (Callable, type):
        return nested({"type": value}, wanted, at)  # a part by its bare name
    wrong = [key for key in value if key not in ("type", "args")] if isinstance(value, dict) and cls is Callable else []
    if wrong:
        known = did_you_mean(nearest(wrong[0], ("type", "args")))
        raise Misfit(f"unknown key '{wrong[0]}'{known}; expected NAME or {{type: NAME, args: {{...}}}}")
    try:
        return _if(isinstance(value, cls), value)
    except TypeError:  # a Protocol
        return value


def _same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and bool(a == b)


def _plain(value: Any, cls: type) -> Any:
    if cls is int:
        value = whole(value)
    elif cls is float and type(value) is int:
        value = float(value)
    elif cls is float and isinstance(value, str) and value.lower().lstrip("-+") in ("inf", "nan"):
        raise Misfit("expected a number; write .inf, -.inf or .nan")
    return _if(type(value) is cls, value)


def _of_torch(value: Any, kind: str) -> Any:
    import numpy as np
    import torch

    try:
        if kind == "torch.device":
            return torch.device(value)
        if kind == "torch.dtype":
            dtype = getattr(torch, value.removeprefix("torch."))
            return _if(isinstance(dtype, torch.dtype), dtype)
        _if(isinstance(value, int | float | list), value)
        return np.array(value) if kind == "numpy.ndarray" else torch.tensor(value, dtype=torch.get_default_dtype())
    except (TypeError, ValueError, RuntimeError, AttributeError):
        raise Misfit from None
