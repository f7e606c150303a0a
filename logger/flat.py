"""A config as one level of keys, for tables and trackers."""

from collections.abc import Mapping
from typing import Any


def flat(config: Mapping[str, Any], at: str = "", number_lists: bool = True) -> dict[str, Any]:
    """{a: {b: 1}} as {a.b: 1}. number_lists: also lists of parts, by their number."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if number_lists and isinstance(value, list) and any(isinstance(entry, Mapping) for entry in value):
            value = {str(number): entry for number, entry in enumerate(value)}
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{at}{key}.", number_lists)
        else:
            found[f"{at}{key}"] = value
    return found
