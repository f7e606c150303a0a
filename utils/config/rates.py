"""KEY=VALUE of a learning rate: `--lr X` scales those of the optimizer's parameter groups by the same factor."""

from collections.abc import Mapping
from typing import Any

from utils.config.files import ConfigError, Tree


def set_value(tree: Tree, override: str) -> None:
    """Set one KEY=VALUE; of a learning rate, those of the groups too. Raises ConfigError."""
    keys = override.partition("=")[0].split(".")
    before = _value(tree, keys)
    tree.set(override)
    after = _value(tree, keys)
    is_rate = keys[0] == "optimizer" and keys[-2:] == ["args", "lr"]
    groups = _value(tree, [*keys[:-2], "groups"]) if is_rate else None
    for group in groups if isinstance(groups, list) else []:
        if not isinstance(group, dict) or "lr" not in group:
            continue
        if not all(isinstance(rate, int | float) and rate for rate in (before, after, group["lr"])):
            problem = "cannot scale the learning rates of optimizer.groups, because the config has no args.lr"
            raise ConfigError([f"command line: {override}: {problem} to scale them from; set it in the config too"])
        group["lr"] *= after / before


def _value(tree: Tree, keys: list[str]) -> Any:
    """What the config has at these keys; None where there is nothing."""
    at: Any = tree.data
    for key in keys:
        at = at.get(key) if isinstance(at, Mapping) else None
    return at
