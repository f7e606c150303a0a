"""How much each run of an ensemble counts: equally, as given, or as the validation data wants it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from utils.errors import UsageError

ROUNDS = 500


def given(text: str | None, n: int) -> list[float]:
    """The weights of --weights, `2,1,1`, so that they sum to 1. None: equal ones."""
    if text is None:
        return [1 / n] * n
    try:
        weights = [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--weights {text}: give a number for each run, such as 2,1, or auto") from None
    if len(weights) != n or min(weights) < 0 or not 0 < sum(weights) < float("inf"):
        raise UsageError(f"--weights {text}: give {n} numbers, one for each run, none negative, or auto")
    return [weight / sum(weights) for weight in weights]


def fitted(of_target: Sequence[Tensor]) -> list[float]:
    """The weights whose average gives the targets the highest likelihood, by expectation maximization.

    of_target: for each run, the probability [N] that it gave to each sample's class. The likelihood is concave in the
    weights, so that the result does not depend on where it starts.
    """
    each = torch.stack([p.double().clamp(min=1e-12) for p in of_target])  # [runs, N]
    weights = torch.full((len(each),), 1 / len(each), dtype=torch.float64)
    for _ in range(ROUNDS):
        shares = weights[:, None] * each
        weights = (shares / shares.sum(dim=0)).mean(dim=1)
    return weights.tolist()
