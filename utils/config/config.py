"""A run's config, checked in two stages so that typos are caught before any work starts.

`load` reads the files and validates the fixed part, without torch. `Config.check` imports the parts that the config
names and binds their arguments against signatures. `Config.build` calls them.
"""

import contextlib
import copy
import functools
import gc
import inspect
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from utils.config import fits, messages, names, published, rates, schema
from utils.config.files import ConfigError, Dumper, KeyPath, Tree, did_you_mean, nearest, parse, read
from utils.config.sections import FACTS_OF_DATASETS, KINDS, SECTIONS
from utils.config.signatures import signature_of
from utils.config.values import Misfit, wants_factory
from utils.errors import Stopped, UsageError
from utils.exit_codes import advice, traceback_of

Named = schema.Part | schema.TrainerConfig  # has `type` and `args`
TESTED = ("arch", "data_loader", "loss", "metrics")  # sections that test.py builds


def load(files: Sequence[str | Path | Mapping[str, Any]], overrides: Sequence[str] = ()) -> "Config":
    """Merge the files from left to right, set each KEY=VALUE, validate the fixed part. Raises ConfigError.

    A mapping takes the place of a file: the config in a checkpoint.
    """
    trees = [_plain_tree(file) if isinstance(file, Mapping) else read(Path(file)) for file in files]
    tree = Tree({}, {})
    for later in trees:
        tree.merge(later)
    tree.where[()] = " + ".join(tree.where[()] for tree in trees)
    problems: list[str] = []
    notes: list[str] = []
    for override in overrides:
        key, equals, value = override.partition("=")
        try:
            rates.set_value(tree, f"{key.strip()}{equals}{value}")
        except ConfigError as e:
            problems += e.problems
    try:
        run = schema.RunConfig.model_validate(tree.data)
    except ValidationError as e:
        found, notes = messages.problems(e, tree)
        problems += found
    if problems:
        raise ConfigError(problems, notes)
    return Config(run, tree)


def _plain_tree(config: Mapping[str, Any]) -> Tree:
    name = "the config"
    data, where = parse(yaml.dump(dict(config), Dumper=Dumper), lambda line: name)
    return Tree(data, where | {(): name})


class Config:
    """The valid fixed part (`run`), and the parts that it names.

    facts: what the data states about itself, by name; fills parameters of the model, loss and metrics that the config
    leaves open.
    """

    def __init__(self, run: schema.RunConfig, tree: Tree):
        self.run, self.tree = run, tree
        self.facts: dict[str, Any] = {}
        self.published: list[tuple[Any, Any]] = []  # (model built, what builds it with its library's weights)

    @property
    def custom(self) -> dict[str, Any]:
        """Keys of your own."""
        return self.run.custom

    def to_dict(self) -> dict[str, Any]:
        """All keys with their defaults, in plain types: safe for YAML and for torch.load(weights_only=True)."""
        return self.run.model_dump()

    def to_yaml(self) -> str:
        """A config file that gives the same config."""
        return yaml.dump(
            self.to_dict(), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None
        )

    def resolve(self, section: str, part: Named) -> Any:
        """The class or function that `part` names; LookupError if there is none."""
        return names.find(section, part.type)

    def accepts(self, section: str, part: Named, name: str) -> bool:
        """Does the class or function that `part` names accept this argument?"""
        signature = names.accepted(section, self.resolve(section, part))
        return name in signature.parameters or signature.open_ended

    def build(self, section: str, *args: Any, **kwargs: Any) -> Any:
        """The part of a section, called with the config's arguments and these; None if the config names none, a list
        for a list. Of several optimizers or schedules, build each with `build_part`."""
        named = getattr(self.run, section)
        self.published = [] if section == "arch" else self.published
        if isinstance(named, list):
            return [self.build_part(section, part, *args, **kwargs) for part in named]
        return None if named is None else self.build_part(section, named, *args, **kwargs)

    def build_part(
        self, section: str, part: Named, *args: Any, substitute: Callable[[Any], Any] | None = None, **kwargs: Any
    ) -> Any:
        """One part, checked for its kind. `kwargs` override the config's arguments, of which it gets a copy.

        substitute: returns the class to build instead of the one that the config names. Raises ConfigError, also for
        errors of the constructor.
        """
        path = next((path for path, named in self._parts(section) if named is part), (section,))
        try:
            thing = self.resolve(section, part)
        except LookupError as e:
            raise ConfigError([f"{self.tree.place(path)}: {e.args[0]}"]) from None
        values, problems = self._bound(section, path, thing, part.args, self.facts, kwargs, args)
        if problems:
            raise ConfigError(problems)
        values |= kwargs
        if not names.builds(section, thing):  # a function (output, target), or an object that is called like one
            thing = thing if inspect.isfunction(thing) else copy.deepcopy(thing)
            return functools.partial(thing, **values) if values else thing
        make = names.builder(section, substitute(thing) if substitute else thing)
        built = self._call(section, path, part.type, make, args, values)
        if wrong := names.misbuilt(section, built):
            expected = SECTIONS[section].expected
            raise ConfigError([f"{self.tree.place(path)}: {part.type}: {wrong}; expected {expected}"])
        return built

    def options_of_groups(self, part: schema.OptimizerPart) -> list[dict[str, Any]]:
        """The options of each of its parameter groups, converted to the annotations of the optimizer's parameters."""
        path = next(path for path, named in self._parts("optimizer") if named is part)
        thing = self.resolve("optimizer", part)
        bound = [names.bound("optimizer", thing, group.options, lambda part, *_: part) for group in part.groups]
        problems = [
            f"{self.tree.place((*path, 'groups', i, *at))}: {message}"
            for i, one in enumerate(bound)
            for at, message in one.problems
        ]
        if problems:
            raise ConfigError(problems)
        return [one.values for one in bound]

    def _bound(
        self,
        section: str,
        path: KeyPath,
        thing: Any,
        args: Mapping[str, Any],
        facts: Collection[str] | None,
        given: Collection[str] = (),
        positional: tuple[Any, ...] | None = None,
    ) -> tuple[dict[str, Any], list[str]]:
        """The arguments for `thing`, with facts of the data; and all that is wrong with them.

        facts: names of facts that the data states; None: it may state any. given: arguments that the code gives.
        positional: what the code gives first, to nested optimizers and schedules too; None: only check, build nothing.
        """
        top, problems = "args" not in path, list[str]()

        def nested(part: dict[str, Any], wanted: Any, at: KeyPath) -> Any:
            here, name, inside = (*path, "args", *at), part["type"], names.inside(section, wanted)
            try:
                named = names.find(inside, name)
            except LookupError as e:
                problems.append(f"{self.tree.place((*here, 'type'))}: {e.args[0]}")
                return None
            if not names.may_be(named, wanted):
                raise Misfit(f"but {name} is not derived from {getattr(wanted, '__name__', wanted)}")
            factory = wants_factory(wanted)  # of which the code gives the other arguments
            later = names.accepted(inside, named).parameters if factory else ()
            values, wrong = self._bound(inside, here, named, part.get("args") or {}, facts, later, positional)
            problems.extend(wrong)
            if positional is None or problems:
                return None
            if factory or not names.builds(inside, named):
                make = names.builder(inside, named)
                return functools.partial(make, **values) if values else make
            return self._call(inside, here, name, named, positional, values)

        bound = names.bound(section, thing, copy.deepcopy(args), nested)
        problems += [f"{self.tree.place((*path, 'args', *at))}: {message}" for at, message in bound.problems]
        place, left_open = self.tree.place((*path, "args")), names.from_facts(section, thing, args)
        states = f"; the data states only: {', '.join(self.facts)}" if self.facts and positional is not None else ""
        for name in bound.missing:
            may_come = name in left_open and (facts is None or name in facts)
            if not (may_come or name in given or (top and name in KINDS[section].filled)):
                problems.append(f"{place}: {bound.is_missing(name)}{states}")
        if refused := sorted(names.refused(section, thing, given)):
            problems.append(
                f"{place}: {names.name_of(thing)} has no argument {', '.join(map(repr, refused))}, which the scripts "
                f"give it; add it or **kwargs to its __init__, and hand it on to super().__init__"
            )
        fill = left_open if top else bound.missing
        return bound.values | {n: copy.deepcopy(self.facts[n]) for n in fill if n in self.facts}, problems

    def _call(
        self, section: str, path: KeyPath, name: str, thing: Any, args: tuple[Any, ...], values: Mapping[str, Any]
    ) -> Any:
        """thing(*args, **values). What it raises becomes a ConfigError, with a traceback if it comes from a file that
        is the user's."""
        first = KINDS[section].first
        if first and args and first in list(signature_of(thing).parameters)[1:]:  # ChainedScheduler(schedulers, ...)
            args, values = args[1:], {**values, first: args[0]}
        try:
            if section.removesuffix(" argument") != "arch":
                return thing(*args, **values)
            without, with_weights = published.without_weights(thing, values)
            built = thing(*args, **without)
            self.published += [(built, with_weights)] if with_weights else []
            return built
        except UsageError as e:
            if not isinstance(e, ConfigError):
                e.args = (self.tree.located(str(e), path),)
            raise
        except Stopped:
            raise
        except Exception as e:
            text = " ".join(str(e).split())  # some are many lines long
            plain = isinstance(e, (ValueError, TypeError, RuntimeError, OSError)) and text
            line = f"{self.tree.place(path)}: {name}: {'' if plain else f'{type(e).__name__}: '}{text}".rstrip(": ")
            own = section == "trainer" or names.is_yours(traceback.extract_tb(e.__traceback__)[-1].filename)
            e.__traceback__ = e.__traceback__ and e.__traceback__.tb_next  # without this method
            if type(e).__module__ == "urllib.error":
                line += "; download it where there is a network, into the folder where it is searched"
            note = traceback_of(e) if own else advice(e)
            raise ConfigError([line], [note.strip()] if note else ()) from e

    @contextlib.contextmanager
    def located(self) -> Iterator[None]:
        """Within this, a UsageError that begins with a key of the config gets the file and line of that key."""
        try:
            yield
        except UsageError as e:
            if not isinstance(e, ConfigError):
                e.args = (self.tree.located(str(e)),)
            raise

    def check(self, train: bool = True) -> None:
        """Find every part and bind its arguments; raises ConfigError with all problems. `train=False`: only what
        test.py builds."""
        _import_torch()
        problems: list[str] = []
        found: dict[KeyPath, Any] = {}
        parts = [(s, path, part) for s in (SECTIONS if train else TESTED) for path, part in self._parts(s)]
        for section, path, part in parts:
            try:
                found[path] = self.resolve(section, part)
            except LookupError as e:
                problems.append(f"{self.tree.place((*path, 'type'))}: {e.args[0]}")
        loader = found.get(("data_loader",))
        later = loader is not None and names.loader_mentions("facts", loader)  # facts come when the data is read
        facts = None if later else {*self.facts, *FACTS_OF_DATASETS}
        for section, path, part in parts:
            if path in found:
                given = names.given_to_trainers() if section == "trainer" else ()
                problems += self._bound(section, path, found[path], part.args, facts, given)[1]
                problems += [f"{self.tree.place(path)}: {lack}" for lack in names.missing_libraries(found[path])]
                if isinstance(part, schema.OptimizerPart):
                    try:
                        self.options_of_groups(part)
                    except ConfigError as e:
                        problems += e.problems
        if train and ("trainer",) in found:
            problems += fits.metric_problems(self, found["trainer",])
            problems += fits.monitor_problems(self, found["trainer",], loader) if loader is not None else []
        if train and not problems:
            problems = self._submodule_problems()
        if problems:
            raise ConfigError(problems)

    def _parts(self, section: str) -> Iterator[tuple[KeyPath, Named]]:
        named = getattr(self.run, section)
        if isinstance(named, list | dict):
            entries = enumerate(named) if isinstance(named, list) else named.items()
            yield from (((section, key), part) for key, part in entries)
        elif named is not None:
            yield (section,), named

    def _submodule_problems(self) -> list[str]:
        """Errors of optimizers that are not named like a submodule. Builds the model, unless it waits for facts."""
        arch = self.run.arch
        if not isinstance(self.run.optimizer, dict):
            return []
        if self._bound("arch", ("arch",), self.resolve("arch", arch), arch.args, self.facts)[1]:
            return []
        import torch

        with torch.random.fork_rng(devices=[]):
            model = self.build("arch")
        submodules, children = dict(model.named_modules()), [name for name, _ in model.named_children()]
        has = f"{arch.type} has {', '.join(children)}"
        return [
            f"{self.tree.place(('optimizer', name))}: no submodule '{name}'{did_you_mean(nearest(name, submodules))}; "
            + has
            for name in self.run.optimizer
            if name not in submodules
        ]


def _import_torch() -> None:
    """Import torch without garbage collection, which takes a fifth less time; what it makes stays anyway."""
    if "torch" in sys.modules or not gc.isenabled():
        return
    gc.disable()
    try:
        import torch  # noqa: F401
    finally:
        gc.freeze()  # so that later collections skip it
        gc.enable()


def differences(old: Mapping[str, Any], new: Mapping[str, Any], at: str = "") -> list[str]:
    """`key: old -> new` for each key that differs between two resolved configs."""
    lines = []
    for key in [*old, *(key for key in new if key not in old)]:
        before, after, path = old.get(key), new.get(key), f"{at}{key}"
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += differences(before, after, f"{path}.")
        elif before != after:
            lines.append(f"{path}: {before} -> {after}")
    return lines
