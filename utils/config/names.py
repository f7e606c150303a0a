"""The names of parts: where each section of a config looks them up, and what counts as a part of it.

A name is searched in the files at the top of the project's rooms, then in a library. Only the file that has the name is
imported. What the project only imports, and what a library has, must be recognizably of the right kind, so a stranger's
config cannot name `os.system`.
"""

import contextlib
import functools
import importlib
import importlib.util
import inspect
import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

from utils.config import published
from utils.config.data_sets import DATASET, LOADER, makes_data_set, reads_samples, signature_with_loader, with_loader
from utils.config.files import did_you_mean, nearest
from utils.config.rooms import files, loaded, python_files
from utils.config.sections import FROM_FACTS, IMAGES, KINDS, SECTIONS, TARGETS, TRAINER
from utils.config.signatures import Bound, Signature, bind, positional, signature_of
from utils.config.values import MODULE, OPEN, Nested, derives, is_a, wants_factory

# -- what counts as a part --------------------------------------------------------------------------------------------


def _fits(section: str, thing: Any) -> bool:
    """Whether `thing` is a class derived from the right one, or an object of the right kind."""
    at, cls = KINDS[section], thing if inspect.isclass(thing) else type(thing)
    if at.base:
        return derives(cls, at.base) if inspect.isclass(thing) else is_a(cls, at.base)
    if at.methods:
        return all(hasattr(cls, method) for method in at.methods)
    return any(hasattr(cls, hook) for hook in at.hooks)


def builds(section: str, thing: Any) -> bool:
    """Whether calling `thing` builds the part, or `thing` is the part."""
    target = _innermost(thing)
    if KINDS[section].callables:
        return inspect.isclass(target) or (inspect.isfunction(target) and not _is_transform(target))
    return not KINDS[section].called or inspect.isclass(target)


def _is_transform(function: Any) -> bool:
    """Whether a function is a transform itself: its first parameter is an image."""
    return next(iter(inspect.signature(function).parameters), "") in IMAGES


def inside(section: str, wanted: Any = Any) -> str:
    """The kind of the parts in the arguments of this one. wanted: their annotation."""
    if "data_loader" in KINDS[section].rooms and (get_origin(wanted) or wanted) is Callable:
        return "transforms"
    if any(is_a(inner, LOADER) for inner in get_args(wanted)):  # type[BaseDataLoader]
        return "data_loader"
    nested = f"{section} argument"
    return nested if nested in KINDS else section


def may_be(thing: Any, wanted: Any) -> bool:
    """Can what `thing` builds be an object of the class `wanted`? True where that is not known beforehand."""
    cls = get_origin(wanted) or wanted
    if cls in OPEN or not inspect.isclass(cls) or not inspect.isclass(thing) or wants_factory(wanted):
        return True
    try:
        return issubclass(thing, cls)
    except TypeError:  # a Protocol
        return True


def name_of(thing: Any) -> str:
    return getattr(_innermost(thing), "__name__", type(thing).__name__)


def is_yours(file: str) -> bool:
    """Whether it is a file at the top of a room."""
    rooms = {room for at in SECTIONS.values() for room in at.rooms}
    return Path(file) in [path for room in rooms for path in python_files(room)]


def _innermost(thing: Any) -> Any:
    while isinstance(thing, functools.partial):
        thing = thing.func
    return thing


def recognizable(section: str, thing: Any) -> bool:
    """Whether `thing`, which the project has imported, is evidently a part of this section."""
    at = KINDS[section]
    if inspect.isclass(thing):
        fits = _fits(section, thing) or (at.base == LOADER and derives(thing, DATASET))
        return fits and not (section == "loss" and _too_few(thing))
    if not inspect.isfunction(thing):
        return False
    if at.called or at.first:
        names = list(inspect.signature(thing).parameters)
        return names[1:2] != [] and names[1] in TARGETS if at.called else names[:1] == [at.first]
    returned = signature_of(thing).returns
    return is_a(returned, str(at.base))


def _too_few(thing: Any) -> bool:
    """Whether a call does not accept two positional arguments (output, target); of a class: a call of its instances."""
    if inspect.isclass(thing):
        return positional(getattr(thing, "forward", None) or thing.__call__) < 3  # with self
    return positional(thing) < 2


def unfit(section: str, thing: Any) -> str | None:
    """Why `thing`, which the project defines, cannot be a part of this section; None if it can."""
    at, target = KINDS[section], _innermost(thing)
    if inspect.isclass(target) and (at.any_class or (at.base == LOADER and reads_samples(target))):
        return None
    if inspect.isclass(target):
        calls = (at.called or at.callables) and any("__call__" in vars(c) for c in target.__mro__)
        if not _fits(section, target) and not calls:
            return "it is another kind of class"
        return "its forward takes other arguments" if section == "loss" and _too_few(target) else None
    if at.called and not callable(thing):
        return None if at.methods and _fits(section, thing) else f"it is {_kind(thing)}"
    built = not (at.called or at.callables) and at.base == MODULE and _fits(section, thing)
    if not callable(thing) or built:
        return f"it is {_kind(thing)}"  # a model that is built already is callable, but not to build one
    if at.called and not (at.methods and _fits(section, thing)) and _too_few(thing):
        return f"it takes {inspect.signature(thing)}"
    return "it takes no arguments" if at.first and positional(thing) < 1 else None


def _kind(value: Any) -> str:
    return "null" if value is None else f"an object of type {type(value).__name__}"


def misbuilt(section: str, part: Any) -> str | None:
    """What is wrong with the object that a class or function built; None if nothing is."""
    if _fits(section, part) or (KINDS[section].called and callable(part)):
        return None
    return f"it built {_kind(part)}"


# -- the search -------------------------------------------------------------------------------------------------------


def find(section: str, name: str) -> Any:
    """The class, function or callable of that name. LookupError: there is none; says why and what there is."""
    if name.startswith(published.TIMM) and section.removesuffix(" argument") == "arch":
        return published.timm_builder(name)
    why = ""
    if not name.startswith("_"):
        own, why = _own(section, name)
        if own is not None:
            return own
    library = _library(section)
    if name in library:
        return library[name]
    at = KINDS[section]
    offered = own_names(section, strict=False)
    rooms = " and ".join(f"{room}/" for room in at.rooms)
    there = f"{rooms} {'have' if at.rooms[1:] else 'has'} {', '.join(offered) or 'none'}"
    if at.libraries:
        libraries = [library for library in at.libraries if library.rpartition(".")[0] not in at.libraries]
        has = "have" if libraries[1:] else "has"
        there += f"; {' and '.join(libraries)} {f'{has} {len(library)} more' if library else 'is not installed'}"
    options, last = [*library, *offered], name.partition("(")[0].rpartition(".")[2]
    near = last if last in options else nearest(name, options)
    if name.lower() in ("none", "off", "no"):
        why = "; no value is null in a config"
    elif path := _unimportable(at.rooms, name):
        near, importable = None, re.sub(r"[^A-Za-z0-9]+", "_", path.stem)
        why = f"; {path} has it, but this file cannot be imported: rename it to {importable}.py"
    elif "." in name and near != last:
        why = f"; to use one of another library, import it in {at.home} and give its name without dots"
    raise LookupError(f"unknown name '{name}'{did_you_mean(near)}{why}; {there}")


def _own(section: str, name: str) -> tuple[Any, str]:
    """The project's object of this name; or None, and why an object of that name does not fit."""
    at = KINDS[section]
    own = list(files(at.rooms, at.home))
    if at.any_case:
        same = [other for file in own for other in file.defined if other.lower() == name.lower()]
        name = name if name in same or not same else same[0]
    places = [(file, file.defined[name]) for file in own if name in file.defined]
    if len(places) > 1:
        both = " and ".join(f"{file.path}:{line}" for file, line in places)
        raise LookupError(f"'{name}' is defined in {both}; rename one of them")
    for file, line in places:
        module = importlib.import_module(file.module)
        if hasattr(module, name):
            thing = getattr(module, name)
            if why := unfit(section, thing):
                raise LookupError(f"'{name}' in {file.path}:{line} does not fit: {why}; expected {at.expected}")
            return thing, ""
    why = ""
    for file in own:
        if name in file.imported or file.stars:
            thing = getattr(importlib.import_module(file.module), name, None)
            if recognizable(section, thing):
                return thing, ""
            if thing is not None:
                why = f"; {file.path} imports it, but it is not recognizably {at.expected}; define it there"
    found = [thing for thing in loaded(at.rooms, name) if recognizable(section, thing)]
    return (found[0] if found else None), why


def _unimportable(rooms: Collection[str], name: str) -> Path | None:
    """The file that defines this name, but whose own name is not one in Python, such as model/my-net.py."""
    folders = {path.parent: room for room in rooms for path in python_files(room)}
    for folder, room in folders.items():
        for path in folder.glob("*.py"):
            text = "" if path.stem.isidentifier() else path.read_text(encoding="utf-8", errors="replace")
            if re.search(rf"^(class|def) {re.escape(name)}\b", text, re.MULTILINE):
                return Path(room, path.name)
    return None


def own_names(section: str, strict: bool = True) -> dict[str, Any]:
    """What the project recognizably offers to this section. strict: raise the error of a file that cannot be imported,
    which offers nothing otherwise."""
    rooms = KINDS[section].rooms
    others = {at.home for at in SECTIONS.values() if set(at.rooms) & set(rooms)} - {KINDS[section].home}
    offered = {}
    for file in files(rooms, KINDS[section].home):
        if file.path in others:
            continue
        with contextlib.nullcontext() if strict else contextlib.suppress(Exception):
            module = importlib.import_module(file.module)
            own = {name: vars(module)[name] for name in file.defined if name in vars(module)}
            has_loaders = file.path != KINDS[section].home and any(_fits("data_loader", t) for t in own.values())
            for name in [n for n in vars(module) if n in file.defined or n in file.imported or file.stars]:
                thing = getattr(module, name)
                if _makes_data_set(section, thing) and (name not in own or has_loaders):
                    continue  # its loader offers it
                if not name.startswith("_") and _offers(section, thing, name in own):
                    offered[name] = thing
    return offered


def _offers(section: str, thing: Any, is_ours: bool) -> bool:
    at = KINDS[section]
    if recognizable(section, thing):
        return True
    ours = (at.called and inspect.isfunction(thing)) or (at.callables and inspect.isclass(thing))
    return is_ours and ours and not unfit(section, thing)


def _library(section: str) -> dict[str, Any]:
    """The names in the section's libraries. Imported only now: torchvision and torchmetrics take a second."""
    found: dict[str, Any] = {}
    for library in KINDS[section].libraries:
        if importlib.util.find_spec(library.split(".")[0]) is None:
            continue
        module = importlib.import_module(library)
        if library == "torchvision.models":
            offered = {name: module.get_model_builder(name) for name in module.list_models()}
        else:
            public = {n: thing for n, thing in vars(module).items() if not n.startswith("_")}
            offered = {n: thing for n, thing in public.items() if inspect.isclass(thing) and _fits(section, thing)}
        found = offered | found
    return {n: thing for n, thing in found.items() if section != "loss" or n.endswith("Loss")}


# -- arguments --------------------------------------------------------------------------------------------------------


def builder(section: str, thing: Any) -> Any:
    """The function to call to build the part; for a data set, it builds the loader too."""
    return with_loader(name_of(thing), thing) if _makes_data_set(section, thing) else thing


def _signature(section: str, thing: Any) -> Signature:
    return signature_with_loader(thing) if _makes_data_set(section, thing) else signature_of(thing)


def _makes_data_set(section: str, thing: Any) -> bool:
    return KINDS[section].base == LOADER and callable(thing) and makes_data_set(thing)


def accepted(section: str, thing: Any) -> Signature:
    """The parameters of `thing` that the config can give: without those that the code gives."""
    signature, at = _signature(section, thing), KINDS[section]
    names = list(signature.parameters)
    if at.first:
        hidden = {at.first} if at.first in names else set(names[:1])
    elif builds(section, thing):
        hidden = set()
    else:
        hidden = set(names[: 1 if at.callables else 2])
    if section == "trainer":
        hidden |= given_to_trainers()
    return signature._replace(parameters={n: p for n, p in signature.parameters.items() if n not in hidden})


def given_to_trainers() -> set[str]:
    module, _, base = TRAINER.rpartition(".")
    return set(signature_of(getattr(importlib.import_module(module), base)).parameters)


def refused(section: str, thing: Any, names: Collection[str]) -> list[str]:
    """Those of the `names` that it does not have as arguments."""
    signature = _signature(section, thing)
    return [] if signature.open_ended else [name for name in names if name not in signature.parameters]


def bound(section: str, thing: Any, args: Mapping[str, Any], nested: Nested) -> Bound:
    """The arguments of a config for `thing`. nested: gives the objects of parts in them."""
    return bind(name_of(thing), accepted(section, thing), args, nested)


def from_facts(section: str, thing: Any, args: Mapping[str, Any]) -> list[str]:
    """The parameters that facts of the data may fill: those that the config leaves open."""
    if section.removesuffix(" argument") not in FROM_FACTS:
        return []
    return [name for name in accepted(section, thing).parameters if name not in args]


def missing_libraries(thing: Any) -> list[str]:
    """What a part's `libraries` (module -> extra in pyproject.toml) names and is not installed, and how to get it."""
    found = []
    for module, extra in getattr(thing, "libraries", {}).items():
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:  # a folder of this name, such as W&B makes, is no library
            found.append(f"{name_of(thing)} needs {module}, which is not installed: make extra NAME={extra}")
    return found


def loader_mentions(word: str, loader: Callable[..., Any]) -> bool:
    """Whether a data loader's own code has this word; its base class does not count. Without source code: perhaps."""
    classes = [c for c in getattr(loader, "__mro__", ()) if derives(c, LOADER)]
    try:
        return any(re.search(rf"\b{word}\b", inspect.getsource(thing)) for thing in classes or [_innermost(loader)])
    except (OSError, TypeError):
        return True
