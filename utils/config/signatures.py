"""Arguments of a config bound against the signature of a class or function, before it is called."""

import ast
import functools
import inspect
import math
import textwrap
from collections.abc import Callable, Collection, Mapping
from enum import Enum
from typing import Any, NamedTuple

from utils.config.files import KeyPath, did_you_mean, nearest, shown
from utils.config.messages import describe
from utils.config.values import OPEN, Misfit, Nested, convert, full_name


class Signature(NamedTuple):
    parameters: dict[str, inspect.Parameter]  # those that can be given by name
    open_ended: bool  # whether it accepts any other name too
    returns: Any = inspect.Signature.empty
    out_of_reach: Collection[str] = ()  # parameters of the base class, which it does not hand its `**kwargs`


class Bound(NamedTuple):
    values: dict[str, Any]  # as the annotations want them: a list as a tuple, ...
    problems: list[tuple[KeyPath, str]]  # (where in the arguments, message)
    missing: list[str]  # required, and not given
    accepts: str  # "NAME accepts a, b, c"

    def is_missing(self, name: str) -> str:
        return f"argument '{name}' is missing; {self.accepts}"


def bind(name: str, signature: Signature, args: Mapping[str, Any], nested: Nested) -> Bound:
    """Match `args` with the parameters of the thing called `name`, converting values to their annotated types.

    nested: gives the objects of nested parts.
    """
    parameters = signature.parameters
    accepts = f"{name} accepts {', '.join(parameters) or 'no arguments'}"
    values, meant = dict(args), set()
    problems: list[tuple[KeyPath, str]] = []
    for argument, value in args.items():
        parameter = parameters.get(argument)
        if parameter is None and not signature.open_ended:
            near = nearest(argument, parameters)
            meant.add(near)
            more = "; its base class has it: add **kwargs to __init__, and hand them on to super().__init__"
            hint = more if argument in signature.out_of_reach else ""
            problems.append(((argument,), f"unknown argument '{argument}'{did_you_mean(near)}; {accepts}{hint}"))
        elif parameter is None or value is not None or parameter.default is not None:
            wanted = _wanted(parameter)
            try:
                values[argument] = convert(value, wanted, nested, (argument,))
            except Misfit as e:
                problems.append(((argument,), f"got {shown(value)}, {str(e) or f'expected {describe(wanted)}'}"))
    required = [n for n, parameter in parameters.items() if parameter.default is parameter.empty]
    return Bound(values, problems, [n for n in required if n not in args and n not in meant], accepts)


def _wanted(parameter: inspect.Parameter | None) -> Any:
    """Its annotation; without one, the type of a default that has names in a config: a dtype, an enum's member."""
    if parameter is None or parameter.annotation is not parameter.empty:
        return parameter.annotation if parameter else Any
    kind = type(parameter.default)
    return kind if issubclass(kind, Enum) or full_name(kind) == "torch.dtype" else Any


def signature_of(thing: Any) -> Signature:
    """All parameters. A function's `**kwargs` count as those of the class that it is annotated to return."""
    if isinstance(thing, functools.partial):
        return _of_partial(thing)
    if inspect.isclass(thing):
        first = next(c for c in thing.__mro__ if vars(c).keys() & {"__init__", "__new__"})
        if "__init__" not in vars(first):  # torchmetrics.Accuracy
            new = _declared(first.__new__)
            return new._replace(parameters=dict(list(new.parameters.items())[1:]))
        return _of_inits([vars(c)["__init__"] for c in thing.__mro__ if "__init__" in vars(c)])
    if not callable(thing):  # a metric that is an object
        return Signature({}, False)
    own = _declared(getattr(thing, "forward", thing))  # nn.Module.__call__ accepts anything
    if not own.open_ended or not inspect.isclass(own.returns) or own.returns in OPEN:
        return own
    inner = signature_of(own.returns)
    # The function itself gives those without a default: `block`, `layers` of a ResNet
    more = {name: p for name, p in inner.parameters.items() if p.default is not p.empty and name not in own.parameters}
    if "image_size" in inner.parameters and inspect.isfunction(thing):  # torchvision's ViT takes it out of **kwargs
        more.setdefault("image_size", inner.parameters["image_size"].replace(default=224))
    return Signature(own.parameters | more, inner.open_ended, own.returns)


def positional(thing: Callable[..., Any]) -> float:
    """How many positional arguments a call accepts at most."""
    try:
        kinds = [p.kind for p in inspect.signature(getattr(thing, "forward", thing)).parameters.values()]
    except (TypeError, ValueError):  # built in, without a signature
        return math.inf
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return math.inf
    return sum(kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD) for kind in kinds)


def _of_partial(thing: functools.partial) -> Signature:
    inner = signature_of(thing.func)
    rest = dict(list(inner.parameters.items())[len(thing.args) :])
    given = {name: rest[name].replace(default=value) for name, value in thing.keywords.items() if name in rest}
    return inner._replace(parameters=rest | given)


def _of_inits(inits: list[Callable[..., Any]]) -> Signature:
    """The parameters of the first `__init__`, and those of the next as far as it hands `**kwargs` to super()."""
    if inits[0] is object.__init__:
        return Signature({}, False)
    own = _declared(inits[0])
    own.parameters.pop(next(iter(own.parameters)))  # self
    inner = _of_inits(inits[1:])
    if not own.open_ended:
        return own._replace(out_of_reach={*inner.parameters, *inner.out_of_reach} - own.parameters.keys())
    if (handed := _handed_on(inits[0])) is None:
        return own
    count, keywords = handed
    more = [n for n in list(inner.parameters)[count:] if n not in keywords and n not in own.parameters]
    return inner._replace(parameters=own.parameters | {n: inner.parameters[n] for n in more})


def _declared(function: Callable[..., Any]) -> Signature:
    """The parameters of the `def` itself."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # built in, without a signature
        return Signature({}, True)
    scope = getattr(inspect.unwrap(function), "__globals__", {})
    parameters = signature.parameters.values()
    named = {
        p.name: p.replace(annotation=_evaluated(p.annotation, scope))
        for p in parameters
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
    returns = _evaluated(signature.return_annotation, scope)
    return Signature(named, any(p.kind is p.VAR_KEYWORD for p in parameters), returns)


def _evaluated(annotation: Any, scope: dict[str, Any]) -> Any:
    """A string annotation (`from __future__ import annotations`) as the type that it names; Any where only a type
    checker knows it."""
    try:
        for _ in range(2):  # twice where it is in quotes as well
            annotation = eval(annotation, scope) if isinstance(annotation, str) else annotation
        return Any if isinstance(annotation, str) else annotation
    except Exception:
        return Any


@functools.cache
def _handed_on(init: Callable[..., Any]) -> tuple[int, set[str]] | None:
    """The number of positional arguments and the keywords that `super().__init__(..., **kwargs)` gives in `init`; None
    if there is no such call, or no source code."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(init)))
    except (OSError, TypeError, SyntaxError):
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "super().__init__":
            keywords = {keyword.arg for keyword in node.keywords}
            if None in keywords:  # ast's spelling of **kwargs
                count = sum(not isinstance(argument, ast.Starred) for argument in node.args)
                return count, {keyword for keyword in keywords if keyword}
    return None
