"""A run's config: read and checked in two stages, so that a slip is told at once and before any work.

`load` reads the files and validates the fixed part, without torch. `Config.check` imports what the parts name and binds
their arguments against signatures. `Config.build` calls them.
"""

import functools
import gc
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from utils import parts, schema
from utils.source import ConfigError, Dumper, KeyPath, Tree, did_you_mean, nearest, parse, read

__all__ = ["Config", "ConfigError", "load"]
Named = schema.Part | schema.TrainerConfig  # has `type` and `args`


def load(files: Sequence[str | Path | Mapping], overrides: Sequence[str] = ()) -> "Config":
    """Merge the files left to right, set the `KEY=VALUE`s, validate the fixed part. A mapping stands for a file: the
    config in a checkpoint. Raises ConfigError."""
    trees = [_plain_tree(file) if isinstance(file, Mapping) else read(Path(file)) for file in files]
    tree = Tree({}, {})
    for later in trees:
        tree.merge(later)
    tree.where[()] = " + ".join(tree.where[()] for tree in trees)
    problems = []
    for override in overrides:
        try:
            tree.set(override)
        except ConfigError as e:
            problems += e.problems
    try:
        run = schema.RunConfig.model_validate(tree.data)
    except ValidationError as e:
        problems += schema.problems(e, tree)
    if problems:
        raise ConfigError(problems)
    return Config(run, tree)


def _plain_tree(config: Mapping) -> Tree:
    name = "the checkpoint's config"
    data, where = parse(yaml.dump(dict(config), Dumper=Dumper), lambda line: name)
    return Tree(data, where | {(): name})


class Config:
    """A valid fixed part (`run`), and the parts that it names."""

    def __init__(self, run: schema.RunConfig, tree: Tree):
        self.run, self.tree = run, tree

    def to_dict(self) -> dict[str, Any]:
        """All keys with their defaults, in plain types: safe for YAML and for torch.load(weights_only=True)."""
        return self.run.model_dump()

    def to_yaml(self) -> str:
        """A config file that gives this very config."""
        return yaml.dump(
            self.to_dict(), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None
        )

    def resolve(self, section: str, part: Named) -> Any:
        """The class or function that `part` names; LookupError if there is none."""
        return parts.find(section, part.type)

    def build(self, section: str, *args: Any, **kwargs: Any) -> Any:
        """What a section names, called with the config's arguments and these. None where it names nothing, a list where
        it is one; of several optimizers or schedules each has its own `build_part`."""
        named = getattr(self.run, section)
        if isinstance(named, list):
            return [self.build_part(section, part, *args, **kwargs) for part in named]
        return None if named is None else self.build_part(section, named, *args, **kwargs)

    def build_part(self, section: str, part: Named, *args: Any, **kwargs: Any) -> Any:
        """One part, its arguments as its signature wants them; `kwargs` win over the config's."""
        thing = self.resolve(section, part)
        values, wrong = parts.bind(section, thing, part.args)
        if wrong:
            raise ConfigError([f"{section}: {text}" for _, text in wrong])
        if inspect.isfunction(thing) and section in ("loss", "metrics"):
            return functools.partial(thing, **values) if values else thing
        return thing(*args, **(values | kwargs))

    def check(self, train: bool = True) -> None:
        """Find every part and bind its arguments; raises ConfigError with all problems. `train=False`: only what
        test.py builds."""
        _import_torch()
        problems, found = [], {}
        for section in parts.SECTIONS if train else ("arch", "data_loader", "loss", "metrics"):
            for path, part in self._parts(section):
                try:
                    thing = found[path] = self.resolve(section, part)
                except LookupError as e:
                    problems.append(f"{self.tree.place((*path, 'type'))}: {e.args[0]}")
                    continue
                for argument, text in parts.bind(section, thing, part.args)[1]:
                    at = (*path, "args") if argument is None else (*path, "args", argument)
                    problems.append(f"{self.tree.place(at)}: {text}")
        if train and ("trainer",) in found and ("data_loader",) in found:
            problems += self._monitor_problems(found["trainer",], found["data_loader",])
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

    def _monitor_problems(self, trainer: Any, loader: type) -> list[str]:
        """What makes `monitor` name a value that the run never produces."""
        if self.run.trainer.monitor == "off":
            return []
        name = self.run.trainer.monitor.split()[1]
        values = [*trainer.loss_names, *(part.type for part in self.run.metrics)]
        split = parts.accepted("data_loader", loader)[0].get("validation_split")
        share = self.run.data_loader.args.get("validation_split", split.default if split else 1)
        known = [f"val_{value}" for value in values] * bool(share) + values
        if name in known or name in [f"{s}/{v}" for s in ("train", *["valid"] * bool(share)) for v in values]:
            return []
        hint = did_you_mean(nearest(name, known)) if share else " without validation (validation_split is 0);"
        place = self.tree.place(("trainer", "monitor"))
        return [f"{place}: the run never produces `{name}`{hint} it will produce {', '.join(known)}"]

    def _submodule_problems(self) -> list[str]:
        """Which of several optimizers are named like no submodule. Costs building the model once more."""
        if not isinstance(self.run.optimizer, dict):
            return []
        import torch

        with torch.random.fork_rng(devices=[]):
            model = self.build("arch")
        names, children = dict(model.named_modules()), [name for name, _ in model.named_children()]
        has = f"{self.run.arch.type} has {', '.join(children)}"
        return [
            f"{self.tree.place(('optimizer', name))}: no such submodule{did_you_mean(nearest(name, names))} {has}"
            for name in self.run.optimizer
            if name not in names
        ]


def _import_torch() -> None:
    """Import what all parts import, a fifth faster: without looking for garbage among what then stays for good."""
    if "torch" in sys.modules or not gc.isenabled():
        return
    gc.disable()
    try:
        import torch  # noqa: F401
    finally:
        gc.freeze()  # later collections need not look at it either
        gc.enable()


def differences(old: Mapping, new: Mapping, at: str = "") -> list[str]:
    """`key: old -> new` for each key of two resolved configs that is not the same."""
    lines = []
    for key in [*old, *(key for key in new if key not in old)]:
        before, after, path = old.get(key), new.get(key), f"{at}{key}"
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += differences(before, after, f"{path}.")
        elif before != after:
            lines.append(f"{path}: {before} -> {after}")
    return lines


def main() -> None:
    """Print the JSON Schema that gives completion in editors."""
    import json

    names = {section: sorted(parts.own_names(section)) for section in parts.SECTIONS}
    print(json.dumps(schema.json_schema({k: v for k, v in names.items() if v}), indent=1))


if __name__ == "__main__":
    main()
