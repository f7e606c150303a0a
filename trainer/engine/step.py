"""What `train_step` and `eval_step` in trainer.py call: micro-batches, backward, update, record."""

import contextlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from logger.console import log
from trainer.engine.batches import pair
from trainer.engine.loss import Loss, Weight
from trainer.engine.metrics import Metrics, Sums
from trainer.engine.nonfinite import FiniteCheck, NonFinite
from trainer.engine.speed import kernels
from trainer.engine.speed.memory_format import MemoryFormat
from trainer.engine.timing import Clock
from trainer.engine.training_checks import SkippedUpdates
from trainer.parallel import Strategy
from utils.errors import SampleError, Stopped, UsageError
from utils.process import group
from utils.process.watchdog import Progress
from utils.seed import mix, seed_all

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
NOTHING = contextlib.nullcontext()
PHASES = {  # phase -> its place in a step, and what the watchdog says of a rank that hangs in it
    "validation": (-1, "validation after step {step}"),
    "data": (0, "reading the samples of step {step}"),
    "forward": (1, "computing step {step}"),
    "backward": (1, "the backward pass of step {step}"),
    "other": (2, "what follows step {step}"),
}


class Step:
    """One training step: a pass over its micro-batches for each `update`."""

    # BaseTrainer sets these
    takes_pairs: bool
    train_step: Any
    eval_step: Any
    optimizers: Any
    model: Any
    parallel: Strategy
    metrics: Metrics
    options: Any
    device: torch.device
    scaler: torch.amp.GradScaler
    finite: FiniteCheck
    memory_format: MemoryFormat
    skipped_updates: SkippedUpdates
    clock: Clock
    seed: int
    rank: int
    world_size: int
    step: int
    data_loader: Any
    skipped: list[int]
    criterion: Loss

    def __init__(self) -> None:
        self._sums = Sums()  # where `record` adds to
        self._step_size = 0  # samples of this step over all ranks
        self._size = 0  # samples of this micro-batch on this rank
        self._micro_batch = 0
        self._backwards = 0  # backward passes in this micro-batch
        self._pass = 0  # passes over the micro-batches in this step: a GAN has two
        self.pass_complete = False  # have all its micro-batches been computed?
        self._weights: list[float | Tensor] | None = None  # of the micro-batches of this pass, where they were stated
        self._parameters: list[nn.Parameter] | None = None  # all that may get a gradient
        self._places: dict[nn.Parameter, int] | None = None  # in that list
        self.grad_norms: dict[int, Tensor | float] = {}  # of the last step, before clipping, by the id of the optimizer
        self._averaged: dict[int, list[nn.Parameter]] = {}  # in this pass, by the id of their optimizer

    # -- for trainer.py -----------------------------------------------------------------------------------------------

    def micro_batches(self, batches: Sequence[Any]) -> Iterator[Any]:
        """The micro-batches of one pass. Clears every gradient first, so that one pass never leaks into the next.

        Each is seeded by (seed, step, shard, pass): draws do not depend on restarts, nor on how shards become ranks.
        The first shard of the first pass continues with the seed of the step, which saves 15 us a step.
        """
        self._begin_pass()
        last = len(batches) - 1
        for i, batch in enumerate(batches):
            self._micro_batch, self._size, self._backwards = i, batch.size, 0
            shard = self.rank + batch.shard * self.world_size
            if shard or self._pass > 1:
                seed_all(mix(self.seed, self.step, shard, self._pass))
            with self.parallel.micro_batch(last=i == last):
                yield self.unpack(batch.data)
        self.pass_complete = True

    def unpack(self, batch: Any) -> Any:
        """The batch that train_step and eval_step get. Override this for batches that do not show what is what."""
        return pair(batch, self.model) if self.takes_pairs else batch

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The precision of the forward pass."""
        if self.options.precision == "fp32":
            return NOTHING
        return torch.autocast(self.device.type, DTYPES[self.options.precision])

    def weight(self, targets: Any) -> Weight:
        """What the mean in the loss is over: the labels that are not ignored, say. None: samples."""
        return self.criterion.weight(targets)

    def backward(self, loss: Tensor | Mapping[str, Tensor], weight: Weight = None, **options: Any) -> None:
        """Add the gradient of this micro-batch to that of the step.

        loss: a mean [], a value per sample [B], or several of them by name, which are summed.
        weight: what it is the mean over; None: samples. options: for Tensor.backward.
        """
        if isinstance(loss, Mapping):
            loss = total(loss)
        elif not isinstance(loss, Tensor):
            raise UsageError(f"loss: it is a {type(loss).__name__}; return a tensor, or a dict of tensors to add up")
        with self.phase("backward", self._pass, self._micro_batch):
            if self._backwards:
                self.parallel.another_backward()
            self._backwards += 1
            loss = loss.mean() if loss.dim() else loss
            share, loss = self._share(weight, loss)
            self.finite.check(self.step, "loss", loss)
            loss = self.scaler.scale(loss if share is None else loss * share)
            if options:
                loss.backward(**options)
            else:
                kernels.backward(loss)

    def record(self, *, weight: Weight = None, **values: Any) -> None:
        """Log these values of the micro-batch: one per sample [B], or a mean [] over `weight` (None: samples)."""
        is_sum = isinstance(weight, str)
        counted = None if isinstance(weight, str) else weight
        for name, value in values.items():
            if isinstance(value, Mapping):  # a loss of several parts
                self.record(weight=weight, **{name: total(value), **value})
                continue
            if is_sum and isinstance(value, Tensor) and not value.dim():
                value = value / self._size
            self._sums.add(name, value, self._size, counted)

    def average(self, optimizer: Optimizer) -> None:
        """Make the optimizer's gradients those of the mean over the whole step, on all ranks. Idempotent.

        `update` does this. Call it before, where the step needs the global gradient.
        """
        if not self.pass_complete:
            raise RuntimeError("update() after a pass that was left early: a step needs all of its micro-batches")
        if id(optimizer) not in self._averaged:
            parameters = self._averaged[id(optimizer)] = self._parameters_of(optimizer)
            self.parallel.average(parameters)
            self._normalize(parameters)

    def update(self, optimizer: Optimizer | Mapping[str, Optimizer]) -> None:
        """Update the weights by the gradients of the pass: average, unscale, check, clip, step. Nothing else does.

        Several optimizers each step once, by the gradients of the same pass.
        """
        if isinstance(optimizer, Mapping):
            for one in optimizer.values():
                self.update(one)
            return
        with self.clock.phases["backward"] if self.world_size > 1 else NOTHING:
            self.average(optimizer)
        with self.clock.phases["optimizer"]:
            self.scaler.unscale_(optimizer)
            norm = self.parallel.clip(self._averaged[id(optimizer)], self.options.clip_grad_norm)
            self.grad_norms[id(optimizer)] = norm
            if not self.scaler.is_enabled():  # else the scaler skips a step whose gradients are not finite
                self._check_norm(norm)
            try:
                self.scaler.step(optimizer)
            except TypeError as e:  # fused SGD cannot start the momentum of a parameter later than that of others
                if "closure" in str(e):
                    raise UsageError(
                        f"optimizer: {type(optimizer).__name__} evaluates the model several times per step; call "
                        f"optimizer.step(closure) in train_step of a trainer of your own, or use another optimizer"
                    ) from e
                with kernels.not_fused(optimizer):  # for this step only, as a resumed run does
                    self.scaler.step(optimizer)
            self.scaler.update()
            self.skipped_updates.updates += 1

    # -- engine -------------------------------------------------------------------------------------------------------

    def phase(self, name: str, *at: int) -> contextlib.AbstractContextManager[None]:
        """Times a part of the loop, and tells the watchdog of other ranks what this one is doing.

        at: growing numbers that order what happens within one phase of one step.
        """
        self.doing(name, *at)
        return self.clock.phases[name]

    def doing(self, name: str, *at: int) -> None:
        """Tell the watchdog of other ranks what begins."""
        place, Progress.doing = PHASES[name]
        Progress.at = (self.step, place, *at)

    @property
    def updated_in_step(self) -> bool:
        """May a pass of the step that runs have changed weights already?"""
        return self._pass > 1

    def read(self, stream: Iterator[Any]) -> list[Any]:
        """The micro-batches of the next step, on the device."""
        batches = [next(stream) for _ in range(self.data_loader.sampler.accumulate)]
        self._step_size = self.data_loader.sampler.size(self.step)
        if self.options.skip_bad_samples or self.data_loader.size_varies:
            bad = [bad for batch in batches for bad in batch.bad]
            if self.world_size > 1 and not self.options.skip_bad_samples and not all(batch.size for batch in batches):
                raise SampleError(
                    f"collate_fn left no sample of a micro-batch of step {self.step + 1}; over several processes each "
                    f"needs one: leave out fewer samples, or raise data_loader.args.batch_size"
                )
            size, n_bad = group.sum_over_ranks([sum(batch.size for batch in batches), len(bad)])
            self._step_size = int(size)
            if n_bad:
                self.note_skipped(bad)
        for shard, batch in enumerate(batches):
            batch.shard = shard
        return [batch for batch in batches if batch.size]

    def set_step_size(self, size: int) -> None:
        """The samples of the next step over all ranks, where `read` does not find them out."""
        self._step_size = size

    def note_skipped(self, bad: list[tuple[int, str]]) -> None:
        """Add samples that could not be read, (index, why), of all ranks; raises Stopped above the number allowed."""
        allowed = self.options.skip_bad_samples
        for index, why in itertools.chain(*group.gather(bad)):
            if index not in self.skipped:
                self.skipped.append(index)
                log.warning(f"skipped ({len(self.skipped)} of {allowed} allowed): {why}")
        if len(self.skipped) > allowed:
            raise Stopped(
                f"more than trainer.skip_bad_samples = {allowed} samples could not be read: {sorted(self.skipped)}; "
                f"repair or remove them, or allow more"
            )

    def compute_step(self, batches: Sequence[Any]) -> None:
        """`train_step`, seeded: what it draws outside of micro-batches depends on (seed, step) alone."""
        if self.memory_format.in_trial:
            self.memory_format.first_step(
                lambda: self._seeded_step(batches), self.optimizers(), lambda: self.updated_in_step
            )
        else:
            self._seeded_step(batches)

    def _seeded_step(self, batches: Sequence[Any]) -> None:
        self._pass = 0
        seed_all(mix(self.seed, self.step, 0, 1))
        self.train_step(batches)
        if self.step == 0 and self.world_size > 1 and not (self._averaged or self.parallel.saves_on_all_ranks):
            log.warning(
                f"{type(self).__name__}.train_step did not call self.update(optimizer): the gradients of this step are "
                f"not averaged over the {self.world_size} processes, so that their weights drift apart"
            )

    @contextlib.contextmanager
    def recording(self, sums: Sums) -> Iterator[None]:
        """Within this, `record` adds to `sums`."""
        before, self._sums = self._sums, sums
        try:
            yield
        finally:
            self._sums = before

    def evaluate_batch(self, batch: Any, size: int) -> Any:
        """The outputs of `eval_step` for one batch of `size` samples on this rank."""
        self._size = size
        with self.autocast():
            return self.memory_format.evaluate(lambda: self.eval_step(batch), self.optimizers())

    def _begin_pass(self) -> None:
        self._pass += 1
        self.pass_complete, self._weights = False, None
        self._averaged.clear()
        if self._parameters is None:
            self._parameters = [*self.model.parameters(), *(p for _, p in self.criterion.named_parameters())]
        for p in self._parameters:
            p.grad = None  # optimizer.zero_grad() takes ten times as long
        self.parallel.begin_pass()

    def _share(self, weight: Weight, loss: Tensor) -> tuple[float | Tensor | None, Tensor]:
        """The part of the step's expected size that this micro-batch is (None: all of it), and the loss.

        The sum of the actual weights is known only after the pass, when `average` corrects for it: to ask all ranks for
        it before the first backward pass would keep the device waiting.
        """
        if isinstance(weight, str):  # a sum over samples: no part of a mean, so it adds up as it is
            return (None if self.parallel.ranks == 1 else self.parallel.ranks), loss
        if isinstance(weight, Tensor) and self.device.type == "cpu":
            weight = weight.item()
        if weight is not None and self._backwards == 1:  # of several losses of a micro-batch, the first states it
            self._weights = [*(self._weights or []), weight]
        if isinstance(weight, Tensor) or weight == 0:  # the mean over nothing is NaN: such a micro-batch adds nothing
            loss = torch.where(torch.as_tensor(weight, device=loss.device) > 0, loss, torch.zeros_like(loss))
        share = (self._size if weight is None else weight) * self.parallel.ranks / self._step_size
        return (None if isinstance(share, float) and share == 1 else share), loss

    def _normalize(self, parameters: Sequence[nn.Parameter]) -> None:
        """Where weights were stated: from a mean over the expected size to one over the actual sum of all weights."""
        stated = self._weights is not None
        if self.options.skip_bad_samples:  # a rank may have no samples in this step, and so nothing to state
            stated = group.any_rank(stated)
        if not stated:
            return
        weights = self._weights or []
        if len(weights) == self.world_size == 1 and type(weights[0]) is int and weights[0] == self._step_size:
            return  # mostly: one micro-batch, all of whose labels count
        if all(not isinstance(weight, Tensor) for weight in weights):
            total: Any = group.sum_over_ranks([float(sum(weights))])[0]  # type: ignore[arg-type]
            factor = self._step_size / total if total else 0.0
            if factor == 1:
                return
        else:
            total = torch.stack([torch.as_tensor(w, device=self.device).double() for w in weights]).sum()
            if self.world_size > 1:
                torch.distributed.all_reduce(total)
            factor = torch.where(total > 0, self._step_size / total, 0.0)
        for p in parameters:
            if p.grad is not None:
                p.grad.mul_(factor)

    def _parameters_of(self, optimizer: Optimizer) -> list[nn.Parameter]:
        """In the order of the model, so that sums over them do not depend on parameter groups."""
        held = [p for group_ in optimizer.param_groups for p in group_["params"]]
        if len(optimizer.param_groups) == 1:
            return held
        if self._places is None:
            self._places = {p: i for i, p in enumerate(self._parameters or ())}
        places = self._places
        return sorted(held, key=lambda p: places.get(p, len(places)))

    def _check_norm(self, norm: Tensor | float) -> None:
        if isinstance(norm, Tensor):
            self.finite.check(self.step, "gradient", norm)
        elif not math.isfinite(norm):
            self.finite.now()  # was it a loss, on one of the ranks?
            raise NonFinite(self.step, "gradient", norm)


def total(losses: Mapping[str, Tensor]) -> Tensor:
    """The sum of several losses, each a mean [] or a value per sample [B]; an entry `loss` is their sum itself."""
    return losses["loss"].mean() if "loss" in losses else torch.stack([loss.mean() for loss in losses.values()]).sum()
