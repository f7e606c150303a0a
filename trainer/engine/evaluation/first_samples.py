"""The first samples of an evaluation: the same ones on any number of ranks."""

from typing import Any

import torch
from torch import Tensor

from utils.process import group

LARGE = 2**32  # samples: more than a batch has


class FirstSamples:
    """Keeps what is given of the first `count` samples, on the CPU. Each rank makes one; `together` ends it."""

    def __init__(self, trainer: Any, count: int) -> None:
        self.missing = count if group.broadcast(trainer.reporter.shows) else 0  # only rank 0 has writers
        self.count, self.batches = count, 0
        self.parts: list[dict[str, Tensor]] = []

    def add(self, **columns: Tensor) -> None:
        """Of a batch: what is known of its samples, each [N, ...]. Waits for the device while samples are missing."""
        if self.missing > 0:
            # The ranks take turns: sample i of a batch is on rank i % world_size
            turns, rank, n = group.world_size(), group.rank(), min(map(len, columns.values()))
            mine = min(n, max(0, -(-(self.missing - rank) // turns)))  # of this batch, among those that are missing
            if mine:
                kept = {name: column[:mine].detach().cpu() for name, column in columns.items()}
                kept["place"] = self.batches * LARGE + torch.arange(mine) * turns + rank
                self.parts.append(kept)
            self.missing -= (n - 1) * turns + rank + 1  # at least these are in the batch
        self.batches += 1

    def together(self) -> dict[str, Tensor]:
        """Those of all ranks, in the order of the evaluation; {} where there is none or nobody looks."""
        gathered, self.parts = group.gather(self.parts), []
        parts = [part for of_rank in gathered for part in of_rank]
        if not parts:
            return {}
        names = [name for name in parts[0] if all(name in part for part in parts)]
        found = {name: torch.cat([part[name] for part in parts]) for name in names}
        order = found.pop("place").argsort()[: self.count]
        return {name: column[order] for name, column in found.items()}
