"""`trainer.exact_ranks`: the same bits on any number of ranks."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainer.parallel import buffers
from trainer.parallel.base import Strategy
from utils.config.schema import TrainerConfig
from utils.errors import UsageError
from utils.process.group import world_size


class ExactRanks(Strategy):
    """Sends the gradient of each micro-batch to all ranks, which add them up in one order.

    Costs the memory of a gradient for each rank, and the time to send them all.
    """

    @classmethod
    def accumulate(cls, options: TrainerConfig) -> int:
        if options.accumulate % world_size():
            raise UsageError(
                f"trainer.accumulate: {options.accumulate} was given; with exact_ranks these are the micro-batches of "
                f"all ranks together, so a multiple of the {world_size()} ranks is accepted"
            )
        return options.accumulate // world_size()

    def connect(self) -> None:
        self.ranks = 1  # a micro-batch's gradient is added up, not averaged
        buffers.broadcast_model(self.model)
        self.parameters: list[nn.Parameter] = []  # that get a gradient in this pass
        self.norms = buffers.batch_norms(self.model)
        self.statistics: list[Tensor] = []  # that move in this pass
        self.counts = buffers.batch_counts(self.norms)
        self._sum: Tensor | None = None
        self._start: list[Tensor] = []
        self._micro_batches = 0

    def begin_pass(self) -> None:
        self._sum, self._micro_batches = None, 0
        self.statistics = buffers.running_statistics(self.norms)
        self.parameters = [p for p in (*self.model.parameters(), *self.more) if p.requires_grad]

    @contextlib.contextmanager
    def micro_batch(self, last: bool) -> Iterator[None]:
        if self._sum is None:
            self._start = [t.clone() for t in (*self.statistics, *self.counts)]
        for t, start in zip((*self.statistics, *self.counts), self._start, strict=True):
            t.copy_(start)  # each micro-batch moves them from where the step began
        for p in self.parameters:
            p.grad = None
        yield
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        has = torch.tensor([float(p.grad is not None) for p in self.parameters], device=self.parameters[0].device)
        mine = torch.cat([t.flatten() for t in [*gradients, *self.statistics, has]])
        each = [torch.empty_like(mine) for _ in range(world_size())] if world_size() > 1 else [mine]
        if world_size() > 1:
            dist.all_gather(each, mine)
        for of_rank in each:
            self._sum = of_rank if self._sum is None else self._sum + of_rank
        self._micro_batches += world_size()

    @torch.no_grad()
    def average(self, parameters: Sequence[nn.Parameter]) -> None:
        if self._sum is None:  # done, for all parameters
            return
        total, has = self._sum.split([len(self._sum) - len(self.parameters), len(self.parameters)])
        for p, n in zip(self.parameters, has.tolist(), strict=True):
            p.grad = torch.zeros_like(p) if n else None
        places = [torch.empty_like(p) if p.grad is None else p.grad for p in self.parameters]
        buffers.unpack(total, [*places, *self.statistics])
        for t in self.statistics:
            t /= self._micro_batches
        self._sum, self._micro_batches = None, 0
