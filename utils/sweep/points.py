"""Keys with several values on the command line, and all their combinations.

seed=1..5   optimizer.args.lr=1e-3,3e-3   arch.args.widths='[16,32],[32,64]'
"""

import itertools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from utils.config.files import ConfigError, parse
from utils.errors import UsageError

Point = dict[str, Any]  # key of the config -> value
MAX_POINTS = 10_000


def several(overrides: Sequence[str]) -> tuple[list[str], dict[str, list[Any]]]:
    """The overrides that give one value, as they are; and the values of the others by key."""
    single, keys = list[str](), dict[str, list[Any]]()
    for override in overrides:
        key, _, text = override.partition("=")
        values = _values(text, override)
        if len(values) < 2:
            single.append(override)
        elif key in keys:
            raise UsageError(f"command line: {key} is given twice; give all its values at once, {key}=A,B")
        else:
            keys[key] = values
    if twice := [override for override in single if override.partition("=")[0] in keys]:
        raise UsageError(f"command line: {', '.join(twice)}: this key has several values, too; leave one of them out")
    return single, keys


def _values(text: str, override: str) -> list[Any]:
    try:
        entries, _ = parse(f"[{text}]", lambda line: "")
    except ConfigError:  # reported when the config is read
        return []
    values = list[Any]()
    for entry in entries:
        found = re.fullmatch(r"(-?\d+)\.\.(-?\d+)", entry) if isinstance(entry, str) else None
        if found is None:
            if isinstance(entry, str) and re.fullmatch(r"[-+.\de]*\d\.\.[-+.\de]*\d", entry):
                raise UsageError(
                    f"command line: {override}: a range is FIRST..LAST, two integers; list other values: A,B"
                )
            values.append(entry)
            continue
        first, last = int(found[1]), int(found[2])
        if last - first >= MAX_POINTS:
            raise UsageError(f"command line: {override}: {last - first + 1:,} values; give at most {MAX_POINTS:,}")
        if not first < last:
            raise UsageError(
                f"command line: {override}: {entry} is not a range; give FIRST..LAST, both included, with FIRST below "
                f"LAST, such as 1..5"
            )
        values += range(first, last + 1)
    if len({json.dumps(value) for value in values}) < len(values):
        raise UsageError(f"command line: {override}: a value is given twice; give each once")
    return values


def product(keys: Mapping[str, Sequence[Any]]) -> list[Point]:
    """All combinations, the last key changing first."""
    count = 1
    for values in keys.values():
        count *= len(values)
    if count > MAX_POINTS:
        raise UsageError(f"{count:,} combinations of {', '.join(keys)}; give fewer values, at most {MAX_POINTS:,} runs")
    return [dict(zip(keys, values, strict=True)) for values in itertools.product(*keys.values())]


def check_all(
    points: Iterable[Point], check: Callable[[Point], None], placed: Callable[[str, Point], str] = lambda line, _: line
) -> None:
    """Raise ConfigError with all that is wrong with any of these points, each message once.

    check: raises ConfigError for a point that the config does not allow. placed: a message for its point.
    """
    problems: dict[str, None] = {}
    for point in points:
        try:
            check(point)
        except ConfigError as e:
            problems |= dict.fromkeys(placed(line, point) for line in e.problems)
    if problems:
        raise ConfigError(list(problems))


def overrides_of(point: Point) -> list[str]:
    """KEY=VALUE for each key of a point."""
    return [f"{key}={text_of(value)}" for key, value in point.items()]


def text_of(value: Any) -> str:
    """A value as YAML reads it."""
    if isinstance(value, str):
        try:
            if parse(value, lambda line: "")[0] == value:
                return value
        except ConfigError:
            pass
    return json.dumps(value, ensure_ascii=False)
