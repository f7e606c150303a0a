"""Patterns over the names of a model's parameters: `head.*`, `*.bias`; `head` alone means all that is in it."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from utils.config.files import did_you_mean, nearest
from utils.errors import UsageError


def matches(name: str, patterns: str | Sequence[str]) -> bool:
    """Does one of the patterns match the name, or that of a module that it is in?"""
    patterns = [patterns] if isinstance(patterns, str) else patterns
    return any(fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*") for pattern in patterns)


def select(patterns: str | Sequence[str], names: Iterable[str], key: str) -> list[str]:
    """The names that a pattern matches. Raises UsageError for a pattern that matches none; key: where it is given."""
    names = list(names)
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        if not any(matches(name, pattern) for name in names):
            parts = name_parts(names)
            near = nearest(pattern.strip("*."), [*parts, *names])
            raise UsageError(
                f"{key}: '{pattern}' matches no parameter{did_you_mean(near)}; the model has "
                f"{', '.join([name for name in parts if '.' not in name] or names)}, with parameters such as "
                f"{', '.join([*names[:2], names[-1]])}"
            )
    return [name for name in names if matches(name, patterns)]


def name_parts(names: Sequence[str]) -> list[str]:
    """The modules that the names are in: `a`, `a.b` of `a.b.weight`."""
    words = [name.split(".") for name in names]
    return list(dict.fromkeys(".".join(word[:i]) for word in words for i in range(1, len(word))))
