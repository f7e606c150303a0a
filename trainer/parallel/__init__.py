"""How a run works on several ranks: replicated (DDP), sharded (FSDP), or with the same bits on any number of them.

The rest of the trainer knows only `Strategy` (base.py). Another strategy is a file here and a line in `strategy`.
"""

from trainer.parallel.base import Strategy
from utils.config.schema import TrainerConfig

__all__ = ["Strategy", "strategy"]


def strategy(options: TrainerConfig) -> type[Strategy]:
    """The strategy that `trainer.parallel` and `trainer.exact_ranks` choose."""
    if options.parallel == "fsdp":
        from trainer.parallel.fsdp import FullySharded  # takes half a second to import

        return FullySharded
    if options.exact_ranks:
        from trainer.parallel.exact_ranks import ExactRanks

        return ExactRanks
    from trainer.parallel.replicated import Replicated

    return Replicated
