"""The loop: steps, validation, checkpoints, resume. What one step does stands in trainer.py."""

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from logger.logger import log
from logger.reporter import Reporter
from trainer import compiling, gradients, state
from trainer.clock import Clock
from trainer.compiling import Compiler
from trainer.eager import backward
from trainer.evaluation import evaluate
from trainer.finite import Finite, NonFinite
from trainer.metrics import Monitor, Sums, check_over_ranks, is_object, means, name_of
from trainer.optim import Schedule, total_steps
from trainer.replay import explain
from trainer.saving import Saving
from utils import distributed
from utils.errors import Interrupted, Stopped, killed_worker
from utils.run import Run, StopSignal
from utils.seed import mix, seed_all

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class BaseTrainer:
    """Runs `train_step` for every step and `eval_step` for every batch of a validation.

    Progress is the number of optimizer steps done, `step`. What evolves is found by its `state_dict`: every attribute
    of the trainer that has one (also inside lists and dicts) is in each checkpoint.
    """

    loss_names: tuple[str, ...] = ("loss",)  # what train_step and eval_step record besides the metrics

    def __init__(
        self,
        model: nn.Module,
        criterion: Callable[..., Tensor],
        metrics: Sequence[Any],
        optimizer: Any,
        config: Any,
        device: torch.device,
        data_loader: Any,
        valid_data_loader: Any = None,
        lr_scheduler: Any = None,
        callbacks: Sequence[Any] = (),
        run: Run | None = None,
    ) -> None:
        self.config, self.options, self.seed = config, config.run.trainer, config.run.seed
        self.device, self.rank, self.world = device, distributed.rank(), distributed.world()
        self.sharded = self.options.parallel == "fsdp" and self.world > 1
        model = model.to(device)
        self.compiler = Compiler(self.options.compile)
        self.compiler.model(model)
        if self.options.sync_batchnorm and not self.sharded:
            model = gradients.sync_batchnorm(model, device)
        self.model: Any = model if self.sharded else self.wrap(model)
        self.criterion = criterion.to(device) if isinstance(criterion, nn.Module) else criterion
        self.metrics = [m.to(device) if hasattr(m, "to") else m for m in metrics]
        check_over_ranks(self.metrics)
        self._functions = {name_of(m): m for m in self.metrics if not is_object(m)}
        self.optimizer, self.lr_scheduler, self.callbacks = optimizer, lr_scheduler, list(callbacks)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.options.precision == "fp16")
        self.data_loader, self.valid_data_loader = data_loader, valid_data_loader
        self.steps_per_epoch = data_loader.steps_per_epoch
        self.max_steps = total_steps(self.options, self.steps_per_epoch)

        self.step = 0  # optimizer steps done
        self.closed = 0  # the last step after which all that was due is done: validation, best, after_epoch
        self.skipped: list[int] = []  # samples that could not be read
        self.monitor = Monitor(self.options.monitor, self.options.early_stop)
        self.window = Sums()  # since the last log point
        self.epoch_sums = Sums()  # from the start of the epoch to the last log point
        self.stop_reason: str | None = None

        self.run = run
        self.saving: Saving | None = None  # from open() on
        self.finite = Finite(device)
        self.clock = Clock(device)
        verbosity = self.options.verbosity if self.rank == 0 else 0
        self.reporter = Reporter(verbosity, self.options.tensorboard, self.max_steps, self.steps_per_epoch)
        self.signal = StopSignal()
        if self.options.exact_ranks:
            self.gradients: Any = gradients.ExactGradients(self.model)
        elif self.sharded:
            from trainer.fsdp import ShardedGradients  # takes half a second to import

            self.gradients = ShardedGradients(self.model)
        else:
            self.gradients = gradients.Gradients(self.model, even=not self.options.skip_bad_samples)
        self.buffers = gradients.Buffers(state.unwrap(self.model), self.gradients.statistics)
        self._vote = distributed.Vote()  # on the signal to stop by
        self._recorded: list[tuple[str, Tensor]] = []  # of the current micro-batch
        self._size = 0  # samples of the current micro-batch on this rank
        self._step_size = 0  # samples of the current step over all ranks
        self._calls = 0  # of optimize() in the current step
        self._interrupted = False

    # -- for trainer.py -----------------------------------------------------------------------------------------------

    def train_step(self, batches: list[Any]) -> None:
        """One optimizer step from the micro-batches of this rank: calls `optimize` once for each optimizer."""
        raise NotImplementedError

    def eval_step(self, batch: Any) -> None:
        """Record the loss and metrics of one batch; in eval mode and without gradients."""
        raise NotImplementedError

    def wrap(self, model: nn.Module) -> nn.Module:
        """How the model works on several ranks. A step that calls parts of the model on their own returns it as it is:
        gradients are then averaged after the backward pass, not in it."""
        return model if self.options.exact_ranks else gradients.wrap(model, self.device)

    def optimize(self, loss_of: Callable[[Any], Tensor], batches: list[Any], optimizer: Any) -> None:
        """Update the weights once, by the gradient of the mean loss over all samples of the global step.

        loss_of: micro-batch -> its mean loss, a scalar. The only place with backward, scaling, clipping and step.
        """
        self._calls += 1
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for p in parameters:
            p.grad = None  # optimizer.zero_grad() takes ten times as long
        for i, batch in enumerate(batches):
            self._size = batch.size
            seed_all(mix(self.seed, self.step, self.rank + batch.shard * self.world, self._calls))
            with self.gradients.backward(last=i == len(batches) - 1):
                with self.autocast():
                    loss = self.compiler.step(loss_of)(batch.data)
                self._add_recorded(self.window)
                self.finite.check(self.step, "loss", loss)
                self.clock.mark("forward")
                distributed.beat("the backward pass of step {step}", self.step, 1, self._calls, i)
                share = batch.size * self.gradients.ranks / self._step_size
                loss = loss if share == 1 else loss * share
                backward(self.scaler.scale(loss))
            self.clock.mark("backward")
        self.gradients.finish(parameters)
        self.clock.mark("backward")
        self.scaler.unscale_(optimizer)
        self._clip(parameters)
        self.scaler.step(optimizer)
        self.scaler.update()
        self.clock.mark("optimizer")

    def _clip(self, parameters: list[nn.Parameter]) -> None:
        """Scale the gradients down to `clip_grad_norm` over all parameters, and check that they are finite."""
        limit = self.options.clip_grad_norm
        if self.sharded:
            total = self.gradients.clip(parameters, limit)
            self.finite.check(self.step, "gradient", total)
            if self.device.type == "cpu" and not total.isfinite():  # the same on all ranks
                self.finite.now()
            return
        grads = [p.grad for p in parameters if p.grad is not None]
        if self.device.type == "cpu":  # where looking costs nothing, and mostly saves the work
            norm = math.hypot(*(n.item() for n in torch._foreach_norm(grads))) if grads else 0.0
            if not math.isfinite(norm) and not self.scaler.is_enabled():  # the scaler skips such a step by itself
                self.finite.now()  # was it a loss, on one of the ranks?
                raise NonFinite(self.step, "gradient", norm)
            if limit is not None and norm > limit * 0.9999:  # near it torch's own rounding decides
                nn.utils.clip_grad_norm_(parameters, limit)
            return
        total = nn.utils.get_total_norm(grads)
        if not self.scaler.is_enabled():
            self.finite.check(self.step, "gradient", total)
        if limit is not None:
            nn.utils.clip_grads_with_norm_(parameters, limit, total)

    def record(self, **values: Tensor) -> None:
        """Note values of the current micro-batch: one per sample [B], or the mean over the batch []."""
        self._recorded += values.items()

    def record_metrics(self, output: Any, target: Any) -> None:
        """Note the metrics of the config for the current micro-batch; those that are objects only in validation."""
        with torch.no_grad():
            for name, function in self._functions.items():
                self._recorded.append((name, function(output, target)))
            if not self.model.training:
                for metric in filter(is_object, self.metrics):
                    metric.update(output, target)

    def _add_recorded(self, sums: Sums) -> None:
        for name, value in self._recorded:
            sums.add(name, value, self._size)
        self._recorded.clear()

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The precision of the forward pass."""
        if self.options.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, DTYPES[self.options.precision])

    def stop(self, reason: str) -> None:
        """Ask the loop to end after this step; for callbacks."""
        self.stop_reason = reason

    def optimizers(self) -> list[Any]:
        return list(state.by_name(self.optimizer).values())

    def schedules(self) -> list[Schedule]:
        return list(state.by_name(self.lr_scheduler).values())

    # -- the loop -----------------------------------------------------------------------------------------------------

    def train(self) -> None:
        """Train from `step` to the end. Raises Interrupted after a signal, Stopped if it has to give up."""
        try:
            with distributed.together():  # here, since log.txt is still open to errors of other ranks
                self._train()
        except Stopped as e:  # of several ranks none comes here: the first cause is told, which may be another
            self.reporter.note(e)
            raise
        finally:
            self.reporter.close()
            distributed.beat("")

    def _train(self) -> None:
        self.signal.install()
        self.model.train()
        self.reporter.start(self.step)
        self.compiler.start(self.device)
        self.clock.start()
        stream = self.data_loader.stream(self.step)
        try:
            while True:
                if self.saving is not None:
                    self.saving.tell_failure()
                if self.closed < self.step:
                    self._close_step()
                self._interrupted = self._interrupted or self._asked_to_stop()
                ending = self._interrupted or self.finished
                if self.saving is not None and self.saving.due(ending):
                    self.clock.mark("other")
                    self.saving.save()
                    self.clock.mark("checkpoints")
                if ending:
                    break
                self._one_step(stream)
            self._end()
        except NonFinite as e:
            raise Stopped(explain(self, e)) from None
        except RuntimeError as e:  # of a worker that dies, torch tells wherever the main process just is
            if cause := killed_worker(e) or compiling.failed(e):
                raise cause from e
            raise
        finally:
            stream.close()
            if self.valid_data_loader is not None:
                self.valid_data_loader.close()
            if self.saving is not None:
                self.saving.wait()

    def _asked_to_stop(self) -> bool:
        """Has a signal come on any rank? On several ranks it takes effect one step later, on all at the same."""
        if self.world > 1:
            self.signal.number = max(self.signal.number, vote := self._vote(self.signal.number))
            return vote > 0
        return self.signal.number > 0

    def _one_step(self, stream: Iterator[Any]) -> None:
        end_of_epoch = (self.step + 1) % self.steps_per_epoch == 0
        log_due = (self.step + 1) % self.options.log_steps == 0 or end_of_epoch or self.step + 1 == self.max_steps
        distributed.beat("reading the samples of step {step}", self.step)
        self.clock.mark("other")
        batches = self._next_batches(stream)
        self.clock.mark("data")
        if log_due:
            self.clock.look_closer()
        distributed.beat("computing step {step}", self.step, 1)
        if self.step == 0 and batches:
            self.reporter.inputs(batches[0].data[0] if isinstance(batches[0].data, (list, tuple)) else None)
        self._calls = 0
        if self._step_size:  # else every sample of it was bad
            self.train_step(batches)
        if self.world > 1:
            self.buffers.sync()
        distributed.beat("what follows step {step}", self.step, 2)
        rates = self.learning_rates() if log_due else {}  # of this step, before the schedules go on
        for schedule in self.schedules():
            schedule.after_step(end_of_epoch)
        for callback in self.callbacks:
            if hasattr(callback, "after_step"):
                callback.after_step(self)
        self.step += 1
        self.reporter.step(self._step_size)
        if self.compiler.what:
            self.compiler.tell(f"step {self.step}")
        if log_due:
            self.clock.mark("other")
            self._log_point(rates)
            self.clock.mark("logging")

    def _next_batches(self, stream: Iterator[Any]) -> list[Any]:
        """The micro-batches of the next step, on the device."""
        batches = [next(stream) for _ in range(self.data_loader.sampler.accumulate)]
        self._step_size = self.data_loader.sampler.size(self.step)
        if self.options.skip_bad_samples:
            bad = [bad for batch in batches for bad in batch.bad]
            size, n_bad = distributed.sum_over_ranks([sum(batch.size for batch in batches), len(bad)])
            self._step_size = int(size)
            if n_bad:
                self._note_skipped(bad)
        return [batch._replace(shard=i) if i else batch for i, batch in enumerate(batches) if batch.size]

    def _note_skipped(self, bad: list[tuple[int, str]]) -> None:
        """Add samples that could not be read, (index, why), of all ranks; raises Stopped above the number allowed."""
        allowed = self.options.skip_bad_samples
        for index, why in itertools.chain(*distributed.gather(bad)):
            if index not in self.skipped:
                self.skipped.append(index)
                log.warning(f"skipped ({len(self.skipped)} of {allowed} allowed): {why}")
        if len(self.skipped) > allowed:
            raise Stopped(
                f"more than trainer.skip_bad_samples = {allowed} samples could not be read: {sorted(self.skipped)}; "
                f"repair or remove them, or allow more"
            )

    def _log_point(self, rates: dict[str, float]) -> None:
        """Write the means since the last log point. Waits for the device, as nothing else between two of them does."""
        self.finite.now()
        sums = self.window.read()
        self.clock.waited()
        self.window.clear()
        self.epoch_sums.merge(sums)
        self.reporter.train_point(self.step, means(sums) | rates)

    def learning_rates(self) -> dict[str, float]:
        optimizers = state.by_name(self.optimizer).items()
        return {f"lr_{name}" if name else "lr": float(o.param_groups[0]["lr"]) for name, o in optimizers}

    def _close_step(self) -> None:
        """Do what is due between two steps. After a signal it is left undone, and a resume does it first."""
        end_of_epoch = self.step % self.steps_per_epoch == 0
        valid_due = self._valid_due()
        if not end_of_epoch and not valid_due:
            self.closed = self.step
            return
        values: dict[str, float] = {}
        if valid_due:
            self.clock.mark("other")
            valid = self.evaluate(self.valid_data_loader, "validation")
            self.clock.mark("validation")
            self.compiler.tell(f"the validation after step {self.step}")
            if valid is None:
                return
            self.reporter.values("valid", self.step, valid)
            values = {f"val_{name}": value for name, value in valid.items()}
        if end_of_epoch:
            values = means(self.epoch_sums.read()) | values
            self.epoch_sums.clear()
        watched = self._watched(values, end_of_epoch)
        best = watched is not None and self.monitor.update(watched, self.step)
        if self.saving is not None:
            self.saving.best_due = best
        for schedule in self.schedules():
            schedule.after_validation(watched)
        if values:
            self.reporter.summary(self.step, values, end_of_epoch, best)
        if end_of_epoch:
            for callback in self.callbacks:
                if hasattr(callback, "after_epoch"):
                    callback.after_epoch(self, values)
        self.closed = self.step
        self.reporter.start_epoch(self.step)

    def _watched(self, values: dict[str, float], end_of_epoch: bool) -> float | None:
        """The value that `monitor` names, where this step yields it."""
        if self.monitor.mode == "off":
            return None
        name = self.monitor.key
        if name in values:
            return values[name]
        validated = any(key.startswith("val_") for key in values)
        if validated if name.startswith("val_") else end_of_epoch:
            raise Stopped(f"trainer.monitor: this run does not produce {name}; it produces {', '.join(values)}")
        return None

    def evaluate(self, loader: Any, label: str = "evaluation") -> dict[str, float] | None:
        """The mean of each recorded value over all samples of `loader`, each counted once; None after a signal."""
        return evaluate(self, loader, label)

    def _end(self) -> None:
        """The last checkpoint is on the disk, or this raises Stopped."""
        self._vote.close()  # no rank may leave in the middle of it
        if self.saving is not None:
            self.saving.finish()
        self.clock.mark("checkpoints")
        log.info(self.clock)
        again = f"python train.py -r {self.run}"
        if not self.finished:
            told = f"stopped by a signal after step {self.step}/{self.max_steps}; saved. Continue with: {again}"
            log.info(told)
            if self.world > 1:
                log.info(f"each process ends with {self.signal.exit_code}, which torchrun turns into 1")
            raise Interrupted(told if not log.handlers else "", self.signal.exit_code)
        why = self._why_stopped()
        log.info(f"finished at step {self.step}" + (f": {why}" if why else ""))
        if self.monitor.best is not None:
            log.info(f"best {self.monitor.name} {self.monitor.best:.6g} at step {self.monitor.best_step}")
        if self.run is not None:
            log.info(f"saved in {self.run}")

    # -- when ---------------------------------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """Is there nothing left to do?"""
        return self.closed == self.step and (self.step >= self.max_steps or bool(self._why_stopped()))

    @property
    def why_finished(self) -> str:
        return self._why_stopped() or "all its steps are done; to go on, raise trainer.epochs or trainer.max_steps"

    def _why_stopped(self) -> str | None:
        if self.monitor.stop:
            return f"{self.monitor.name} has not improved in {self.monitor.bad_count} validations"
        return self.stop_reason

    def _valid_due(self) -> bool:
        if self.valid_data_loader is None:
            return False
        if self.options.valid_steps:
            return self.step % self.options.valid_steps == 0 or self.step == self.max_steps
        return self.every(self.options.valid_period)

    def every(self, epochs: int) -> bool:
        """Does a period of so many epochs, or the run, end with this step?"""
        epoch, offset = divmod(self.step, self.steps_per_epoch)
        return (offset == 0 and epoch % epochs == 0) or self.step == self.max_steps

    # -- start --------------------------------------------------------------------------------------------------------

    def open(self, saved: dict[str, Any] | None) -> None:
        """Start writing into the run's folder, whose logs go on from those of the checkpoint (or of none)."""
        assert self.run is not None
        self.saving = Saving(self, self.run)
        if self.rank == 0:
            self.reporter.open(self.run.folder, *((saved["logs"], saved["unwritten"]) if saved else ({}, {})))
