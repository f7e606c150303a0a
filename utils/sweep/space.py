"""The space of a search, from a YAML file, and its check: a space that is wrong costs no run.

space:
  optimizer.type: {choice: [AdamW, SGD]}
  optimizer.args.lr: {float: [1e-4, 0.1], log: true}
  optimizer.args.momentum: {float: [0, 0.99], when: {optimizer.type: SGD}}
  data_loader.args.batch_size: {int: [32, 256], step: 32}
sampler: tpe                     # or random, grid
seed: 1                          # of the sampler
trials: 40                       # --trials overrides it
objective: max val_accuracy      # or a list of them; by default trainer.monitor
prune: MedianPruner              # of optuna.pruners, or {type: NAME, args: {...}}; by default none
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from utils.config.files import ConfigError, Tree, did_you_mean, nearest, read, shown
from utils.sweep.points import MAX_POINTS, Point, check_all, overrides_of, text_of

KEYS = ("space", "sampler", "seed", "trials", "objective", "prune")
KINDS = ("float", "int", "choice")
OPTIONS = {"float": ("log", "step", "when"), "int": ("log", "step", "when"), "choice": ("when",)}
SAMPLERS = ("tpe", "random", "grid")
EXAMPLE = "{float: [1e-4, 0.1], log: true}, {int: [1, 8]} or {choice: [a, b]}"
MAX_CHECKS = 200  # combinations of choices that are checked before anything runs


@dataclass
class Key:
    """One key of the space. values: of a choice; else low and high. when: the values of other keys that it needs."""

    name: str
    kind: str
    values: list[Any]
    log: bool = False
    step: float | None = None
    when: dict[str, list[Any]] = field(default_factory=dict)

    def is_active(self, point: Point) -> bool:
        return all(key in point and point[key] in values for key, values in self.when.items())

    def grid(self) -> Iterator[Any]:
        """All its values, each made when it is needed: there may be far more than a search tries."""
        if self.kind == "choice":
            yield from self.values
            return
        low, high = self.values
        step = self.step or 1
        for i in range(int((high - low) / step + 1e-9) + 1):
            yield low + i * step if self.kind == "int" else float(f"{low + i * step:.12g}")


class Space:
    """What a search varies. Raises ConfigError for all that is wrong in the file, with its lines."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.problems: list[str] = []
        data = tree.data
        for name in [name for name in data if name not in KEYS]:
            self._wrong((name,), f"unknown key '{name}'{did_you_mean(nearest(name, KEYS))}; known: {', '.join(KEYS)}")
        self.sampler: str = data.get("sampler") or "tpe"
        if self.sampler not in SAMPLERS:
            self._wrong(("sampler",), f"got {shown(self.sampler)}, expected {', '.join(SAMPLERS[:-1])} or grid")
        self.seed: int = self._natural("seed", 1, lowest=0)
        self.trials: int | None = self._natural("trials", None, lowest=1)
        given = data.get("objective") or []
        self.objectives: list[str] = [given] if isinstance(given, str) else given
        self.prune: Any = data.get("prune")
        if self.prune and len(self.objectives) > 1:
            self._wrong(("prune",), "pruning follows one objective, but there are several; remove one of the two")
        self.keys: list[Key] = []
        space = data.get("space")
        if not isinstance(space, dict) or not space:
            self._wrong(("space",), f"got {shown(space)}, expected keys of the config, such as optimizer.args.lr: "
                        f"{EXAMPLE}")  # fmt: skip
            space = {}
        for name, entry in space.items():
            key = self._key(name, entry)
            if key is not None:
                self.keys.append(key)
        if self.problems:
            raise ConfigError(self.problems)

    @classmethod
    def read(cls, file: Path) -> "Space":
        return cls(read(file))

    def _wrong(self, path: tuple[str, ...], message: str) -> None:
        self.problems.append(f"{self.tree.place(path)}: {message}")

    def _natural(self, name: str, default: Any, lowest: int) -> Any:
        value = self.tree.data.get(name, default)
        if value != default and (type(value) is not int or value < lowest):
            self._wrong((name,), f"got {shown(value)}, expected an integer from {lowest} on")
            return default
        return value

    def _key(self, name: str, entry: Any) -> Key | None:
        path = ("space", name)
        kinds = [kind for kind in KINDS if isinstance(entry, dict) and kind in entry]
        if len(kinds) != 1:
            typo = [nearest(word, KINDS) for word in entry if nearest(word, KINDS)] if isinstance(entry, dict) else []
            hint = did_you_mean(typo[0]) if typo and not kinds else ""
            self._wrong(path, f"got {shown(entry)}{hint}, expected one of {EXAMPLE}")
            return None
        (kind,) = kinds
        unknown = [word for word in entry if word not in (kind, *OPTIONS[kind])]
        for word in unknown:
            near = did_you_mean(nearest(word, OPTIONS[kind]))
            self._wrong((*path, word), f"unknown key '{word}'{near}; {kind} has {', '.join(OPTIONS[kind])}")
        log = entry.get("log") or False
        if log not in (False, True):  # or 1, as in files of older sweeps
            self._wrong((*path, "log"), f"got {shown(log)}, expected true or false")
        key = Key(name, kind, entry[kind], bool(log), entry.get("step"))
        key.when = self._when(path, entry.get("when") or {})
        before = len(self.problems)
        self._check_values(path, key)
        return key if before == len(self.problems) and not unknown else None

    def _check_values(self, path: tuple[str, ...], key: Key) -> None:
        values, at = key.values, (*path, key.kind)
        if key.kind == "choice":
            if not isinstance(values, list) or not values or len({text_of(v) for v in values}) < len(values):
                self._wrong(at, f"got {shown(values)}, expected a list of different values")
            return
        types, what = ((int,), "integer") if key.kind == "int" else ((int, float), "number")
        numbers = isinstance(values, list) and [type(v) in types and math.isfinite(v) for v in values]
        if numbers != [True, True] or not values[0] < values[1]:
            self._wrong(at, f"got {shown(values)}, expected two {what}s, [LOW, HIGH], the lower one first")
        elif key.log and values[0] <= 0:
            self._wrong(at, f"got {shown(values)} with log, which needs LOW above 0")
        elif key.log and key.step is not None:
            self._wrong((*path, "step"), "log and step cannot be combined; remove one")
        elif key.step is not None and not (type(key.step) in types and key.step > 0):
            self._wrong((*path, "step"), f"got {shown(key.step)}, expected a positive {what}")
        elif self.sampler == "grid" and (key.log or (key.kind == "float" and key.step is None)):
            self._wrong(at, "a grid needs single values; give step: NUMBER without log, or {choice: [...]}")

    def _when(self, path: tuple[str, ...], given: Any) -> dict[str, list[Any]]:
        choices = {key.name: key.values for key in self.keys if key.kind == "choice"}
        found = {}
        for name, value in given.items() if isinstance(given, dict) else [("?", given)]:
            if name not in choices:
                near = did_you_mean(nearest(name, choices))
                self._wrong((*path, "when"), f"'{name}' is not a choice above this key{near}; give KEY: VALUE of one")
                continue
            found[name] = value if isinstance(value, list) and value not in choices[name] else [value]
            for wrong in [one for one in found[name] if one not in choices[name]]:
                self._wrong((*path, "when", name), f"{shown(wrong)} is none of its values, {shown(choices[name])}")
        return found

    # -- points -------------------------------------------------------------------------------------------------------

    def suggest(self, choose: Callable[[Key], Any]) -> Point:
        """A point of which `choose` gives the value of each active key."""
        point: Point = {}
        for key in self.keys:
            if key.is_active(point):
                point[key.name] = choose(key)
        return point

    def grid(self, point: Point | None = None, depth: int = 0) -> Iterator[Point]:
        """All points of a grid, each once and made when it is needed; the last key changes first.

        point: has the values of the first `depth` keys.
        """
        point = point or {}
        if depth == len(self.keys):
            yield point
        elif (key := self.keys[depth]).is_active(point):
            for value in key.grid():
                yield from self.grid({**point, key.name: value}, depth + 1)
        else:
            yield from self.grid(point, depth + 1)

    def grid_size(self) -> int:
        """Raises ConfigError for a grid of too many points."""
        count = sum(1 for _ in itertools.islice(self.grid(), MAX_POINTS + 1))
        if count > MAX_POINTS:
            what = f"a grid of more than {MAX_POINTS:,} runs; give fewer values, a larger step, or --trials N"
            raise ConfigError([f"{self.tree.place(('space',))}: {what}"])
        return count

    def _points(self, values: dict[str, list[Any]]) -> list[Point]:
        found: dict[str, Point] = {}
        for combination in itertools.product(*values.values()):
            fixed = dict(zip(values, combination, strict=True))
            point = self.suggest(lambda key, fixed=fixed: fixed[key.name])  # type: ignore[misc]
            found.setdefault(" ".join(overrides_of(point)), point)
        return list(found.values())

    def probes(self) -> Iterator[Point]:
        """Points that show what is wrong with a space: all choices, as far as they are few; each end of each range."""
        ends = {key.name: key.values if key.kind == "choice" else key.values[:1] for key in self.keys}
        count = 1
        for values in ends.values():
            count *= len(values)
        if count <= MAX_CHECKS:
            yield from self._points(ends)
        else:  # each value of each choice at least once
            for i in range(max(len(values) for values in ends.values())):
                yield from self._points({name: [values[i % len(values)]] for name, values in ends.items()})
        for key in self.keys:
            if key.kind != "choice":
                yield from self._points(
                    {other: [values[0]] for other, values in ends.items()}
                    | {name: [values[0]] for name, values in key.when.items()}
                    | {key.name: key.values[1:]}
                )

    def check(self, check_point: Callable[[Point], None]) -> None:
        """Raise ConfigError for a point that the config does not allow, with the lines of the space.

        check_point: raises ConfigError, whose messages name `command line: KEY=VALUE`.
        """
        check_all(self.probes(), check_point, self._placed)

    def _placed(self, line: str, point: Point) -> str:
        for key, value in point.items():
            start = f"command line: {key}={text_of(value)}"
            if line.startswith(start):
                return f"{self.tree.place(('space', key))}={text_of(value)}{line.removeprefix(start)}"
        choices = {key.name for key in self.keys if key.kind == "choice"}
        chosen = {key: value for key, value in point.items() if key in choices}
        return f"{line} (with {', '.join(overrides_of(chosen or point))})"
