"""What a data set is made of: the objects that it, its transforms and its functions refer to."""

import functools
import itertools
import sys
import sysconfig
import types
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor

MOST_OBJECTS = 5000  # a walk ends here: some 10 ms
MOST_ITEMS = 100  # of a container; one that begins with a random generator is searched to its end
PACKAGES = tuple(sysconfig.get_path(name) for name in ("purelib", "platlib"))
STANDARD = sysconfig.get_path("stdlib")
ENGINE = "data_loader.engine"
CONTAINERS = ("argparse", "collections", "types")  # Namespace, UserDict, SimpleNamespace
LEAVES = (str, bytes, int, float, complex, bool, type(None), Tensor, np.ndarray, np.generic, types.ModuleType)
FUNCTIONS = (types.FunctionType, types.MethodType, types.BuiltinMethodType)


def reachable(root: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(path, object) for all that `root` refers to by attributes, items, and its own code's global names."""
    seen: set[int] = set()
    ahead = deque([(path, root)])
    kept = []  # so that no id in `seen` is used again
    while ahead and len(seen) < MOST_OBJECTS:
        path, value = ahead.popleft()
        if id(value) in seen or isinstance(value, LEAVES):
            continue
        seen.add(id(value))
        kept.append(value)
        yield path, value
        ahead += _parts(path, value)


def _parts(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, (list, tuple, deque)):
        for i, item in enumerate(itertools.islice(value, MOST_ITEMS)):
            yield f"{path}[{i}]", item
    elif isinstance(value, (dict, types.MappingProxyType)):
        for key, item in itertools.islice(list(value.items()), MOST_ITEMS):
            yield f"{path}[{key!r}]", item
    elif isinstance(value, (set, frozenset)):
        for item in itertools.islice(list(value), MOST_ITEMS):
            yield path, item
    elif isinstance(value, functools.partial):
        yield path, value.func
        yield path, value.args
        yield path, value.keywords
    elif isinstance(value, types.FunctionType):
        if is_own(value.__module__):
            yield from _of_function(value)
    elif isinstance(value, (types.MethodType, types.BuiltinMethodType)):
        yield path, value.__self__
        yield path, getattr(value, "__func__", None)
    elif isinstance(value, type):
        if is_own(value.__module__):
            for key, item in vars(value).items():
                if key not in ("__init__", "__dict__", "__weakref__"):  # only built the data set
                    item = getattr(item, "__func__", getattr(item, "fget", item))  # static, class method; property
                    yield f"{value.__name__}.{key}", item
    elif not is_standard(type(value).__module__):  # a logger refers to all others
        for key, item in attributes(value).items():
            yield joined(path, key), item
        for kind in type(value).__mro__:
            yield kind.__name__, kind


def joined(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def attributes(value: Any) -> Mapping[str, Any]:
    """What an instance holds, in its __dict__ or in slots; no property is computed."""
    held = getattr(value, "__dict__", None)
    if isinstance(held, dict):
        skipped = getattr(type(value), "changes_by_itself", ())
        return {k: v for k, v in held.items() if k not in skipped} if skipped else held
    names = [n for kind in type(value).__mro__ for n in getattr(kind, "__slots__", ()) if is_own(kind.__module__)]
    return {name: getattr(value, name) for name in names if hasattr(value, name)}


def _of_function(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Its defaults, closure, and the global names that its code mentions, those of its own modules too."""
    yield "", function.__defaults__
    for cell in function.__closure__ or ():
        try:
            yield "", cell.cell_contents
        except ValueError:  # not set yet
            continue
    names = set(_names(function.__code__))
    spaces = [function.__globals__]
    modules = (function.__globals__.get(name) for name in names)
    spaces += [vars(m) for m in modules if isinstance(m, types.ModuleType) and is_own(m.__name__)]
    for space in spaces:
        for name in names & space.keys():
            yield f"{space.get('__name__')}.{name}", space[name]


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):  # a comprehension or a lambda
            yield from _names(constant)


@functools.cache
def is_own(module: str | None) -> bool:
    """Is this a module of the user's project, not of a library?"""
    return not is_standard(module) and not _file(module).startswith(PACKAGES) and not str(module).startswith(ENGINE)


@functools.cache
def is_standard(module: str | None) -> bool:
    """Is this a module of Python itself, whose objects are not searched?"""
    if module in CONTAINERS:
        return False
    file = _file(module)
    return not file or (file.startswith(STANDARD) and not file.startswith(PACKAGES))


def _file(module: str | None) -> str:
    """Where a module is; `__main__` in a notebook, which has no file, is the user's."""
    if module == "__main__":
        return "."
    return str(getattr(sys.modules.get(module or ""), "__file__", None) or "")
