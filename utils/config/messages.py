"""Error messages about the fixed part of a config: the type of each key in words, and one line per error."""

import inspect
import os
from collections.abc import Callable
from enum import Enum
from typing import Annotated, Any, Literal, get_args, get_origin, is_typeddict

from annotated_types import Ge, Gt, Le
from pydantic import BaseModel, ValidationError

from utils.config.files import KeyPath, Tree, did_you_mean, dotted, nearest, one_typo, shown
from utils.config.schema import Group, MetricPart, OptimizerPart, Part, RunConfig, SchedulerPart, TrainerConfig
from utils.config.values import LISTS, MAPPINGS, OF_TORCH, UNIONS, full_name

PART = "NAME or {type: NAME, args: {...}}"
NAMES: dict[Any, str] = {
    bool: "true or false", int: "an integer", float: "a number", str: "a string", type(None): "null",
    Part: PART, SchedulerPart: PART, OptimizerPart: PART, MetricPart: PART, Callable: PART, type: PART,
    Group: "{match: PATTERN, OPTION: VALUE, ...}", TrainerConfig: "a mapping",
}  # fmt: skip


def describe(annotation: Any, metadata: tuple[Any, ...] = ()) -> str:
    """What a value of this type is called in errors and docs."""
    origin, inner = get_origin(annotation) or annotation, get_args(annotation)
    if origin is Annotated:
        return describe(inner[0], inner[1:])
    if origin in UNIONS:
        hidden = {"an integer", OF_TORCH["torch.Tensor"]} if float in inner else set()
        return " or ".join(name for name in map(describe, inner) if name not in hidden)
    if origin is Literal or (inspect.isclass(origin) and issubclass(origin, Enum)):
        choices = list(map(str, inner or getattr(origin, "__members__", ())))
        return ", ".join(choices[:-1]) + (" or " if choices[1:] else "") + choices[-1]
    if origin is tuple and inner and ... not in inner:
        return f"a list of {len(inner)} values"
    if origin in LISTS or origin is tuple:
        return f"a list, each entry {describe(inner[0])}" if inner else "a list"
    name = NAMES.get(origin) or _of_class(origin)
    if any(isinstance(m, Gt) for m in metadata) and any(isinstance(m, Le) for m in metadata):
        return f"{name} above 0, up to 1"
    if any(isinstance(m, Gt) or (isinstance(m, Ge) and m.ge == 1) for m in metadata):
        return f"a positive {name.split()[-1]}"
    if any(isinstance(m, Ge) for m in metadata):
        return f"a non-negative {name.split()[-1]}"
    return name


def _of_class(cls: Any) -> str:
    if cls in MAPPINGS or is_typeddict(cls):
        return "a mapping"
    if inspect.isclass(cls) and issubclass(cls, os.PathLike):
        return "a string"
    return OF_TORCH.get(full_name(cls), "{type: NAME, args: {...}}") if inspect.isclass(cls) else "another type"


def _model(path: KeyPath) -> type[BaseModel]:
    """The model whose keys are under `path`."""
    if not path:
        return RunConfig
    if path[0] == "optimizer" and "groups" in path:
        return Group
    models: dict[Any, type[BaseModel]] = {
        "trainer": TrainerConfig, "optimizer": OptimizerPart, "lr_scheduler": SchedulerPart, "metrics": MetricPart
    }  # fmt: skip
    return models.get(path[0], Part)


def _keys(path: KeyPath) -> list[str]:
    return [*_model(path).model_fields, *(() if path else ("base",))]


def _expected(path: KeyPath) -> str:
    field = _model(path[:-1]).model_fields.get(str(path[-1]))
    if field is None:  # an entry of `metrics`, or one optimizer of several
        return f"expected {NAMES[Group] if 'groups' in path else PART}"
    return f"expected {describe(field.annotation, tuple(field.metadata))} ({field.description})"


def _advice(path: KeyPath, near: str | None, tree: Tree) -> str:
    """What to do about an unknown key: the key that it means, or where it belongs."""
    key = str(path[-1])
    if len(path) > 1 and issubclass(_model(path[:-1]), Part):
        typo = near is not None and one_typo(key.lower(), near)  # weight_decay is an argument, and no other key
        return did_you_mean(near) if typo else "; arguments go under args:"
    elsewhere = [f"trainer.{key}"] if key in TrainerConfig.model_fields else []
    elsewhere += [dotted(place) for place in tree.where if place[-1:] == (key,) and "args" in place]
    near = near or next(iter(elsewhere), None)
    return did_you_mean(near) + ("; keys of your own go under custom:" if len(path) == 1 else "")


def problems(error: ValidationError, tree: Tree) -> tuple[list[str], list[str]]:
    """One line per error of the fixed part: place, what is wrong, what was given, what is accepted; and the keys that
    are accepted where one is unknown."""
    errors = [(tree.known(e["loc"]), e) for e in error.errors(include_url=False)]
    meant: dict[KeyPath, str | None] = {}  # unknown key -> the key that it probably means
    for path, e in errors:
        if e["type"] == "extra_forbidden":
            meant[path] = nearest(str(path[-1]), _keys(path[:-1]))
    repaired = {(*path[:-1], key) for path, key in meant.items() if key}
    lines = []
    for path, e in errors:
        key, place = str(e["loc"][-1]), tree.place(path)
        if path in meant:
            lines.append(f"{place}: unknown key '{path[-1]}'{_advice(path, meant[path], tree)}")
        elif e["type"] == "missing":
            if (*path, key) not in repaired:  # else its misspelling is reported
                lines.append(f"{place}: '{key}' is missing; {_expected((*path, key))}")
        elif e["type"] == "value_error":
            if path[-1:] == (key,) or not any(p[:-1] == path for p in repaired):
                lines.append(f"{place}: {e['ctx']['error']}")
        else:
            lines.append(f"{place}: got {shown(e['input'])}, {_expected(path)}")
    sections = dict.fromkeys(path[:-1] for path in meant)
    notes = [f"accepted keys{f' of {dotted(at)}' if at else ''}: {', '.join(_keys(at))}" for at in sections]
    return list(dict.fromkeys(lines)), notes  # a union reports an error once per member
