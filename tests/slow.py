"""Long tables of cases: a few run always, the others with the slow tests."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def slow_but(fast: Callable[..., bool], cases: Iterable[Any]) -> list[Any]:
    """The cases of a `parametrize`, marked slow but for those that are `fast`."""
    every = [pytest.param(*case) if isinstance(case, tuple) else pytest.param(case) for case in cases]
    return [case if fast(*case.values) else pytest.param(*case.values, marks=pytest.mark.slow) for case in every]
