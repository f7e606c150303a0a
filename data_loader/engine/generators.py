"""Seeds whatever a data set draws from: torch, NumPy, Python, and random generators of its own."""

import random
from typing import Any

import numpy as np
import torch

from data_loader.engine.reachable import reachable
from utils.errors import UsageError
from utils.seed import mix, seed_all

KINDS = (np.random.Generator, np.random.RandomState, random.Random, torch.Generator)
MOST = 16  # seeding one takes some 10 us for each sample


def own_generators(user: Any, path: str = "") -> list[Any]:
    """The random generators that an object refers to. Their state moves with use, so they are seeded before use.

    path: what to call the object.

    Raises UsageError for one that cannot be seeded, and for too many.
    """
    shared = (random.random.__self__, np.random.rand.__self__, torch.default_generator)  # type: ignore[attr-defined]
    found = [(at, value) for at, value in reachable(user, path) if isinstance(value, KINDS)]
    found = [(at, value) for at, value in found if not any(value is one for one in shared)]
    for at, value in found:
        if isinstance(value, random.SystemRandom):
            raise UsageError(
                f"data_loader: {at} is a random.SystemRandom, which cannot be seeded, so that no run could be "
                f"repeated; draw from random, np.random or torch instead, which are seeded for each sample"
            )
    if len(found) > MOST:
        raise UsageError(
            f"data_loader: the data set has {len(found)} random generators ({found[0][0]}, ...); up to "
            f"{MOST} can be seeded for each sample. Draw from random, np.random or torch instead, which are"
        )
    return [value for _, value in found]


def seed(key: int, own: list[Any]) -> None:
    """Seed the global generators with `key`, and each own one with a key derived from it."""
    seed_all(key)
    for i, generator in enumerate(own):
        derived = mix(key, i)  # the same seed would repeat the numbers of the global generators
        if isinstance(generator, random.Random):
            generator.seed(derived)
        elif isinstance(generator, np.random.RandomState):
            generator.seed(derived & 0xFFFFFFFF)
        elif isinstance(generator, torch.Generator):
            generator.manual_seed(derived)
        else:
            generator.bit_generator.state = type(generator.bit_generator)(derived).state


def global_state() -> tuple[Any, ...]:
    """Of the global generators: it differs after a draw. Takes 20 us."""
    _, keys, *rest = np.random.get_state(legacy=True)
    return random.getstate(), np.asarray(keys).tobytes(), *rest, torch.default_generator.get_state().numpy().tobytes()
