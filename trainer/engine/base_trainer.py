"""The loop: step, log, validate, save, stop. What one step does is in trainer.py."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from logger.default_writers import default_writers
from logger.reporter import Reporter
from logger.writer import Writer
from trainer.checkpoint.saving import Saving
from trainer.engine import between_steps, stopping
from trainer.engine.due import Due
from trainer.engine.evaluation import evaluation
from trainer.engine.loss import Loss
from trainer.engine.metrics import Metrics, Sums, means
from trainer.engine.monitor import Monitor
from trainer.engine.nonfinite import FiniteCheck
from trainer.engine.optim.rates import learning_rates
from trainer.engine.optim.schedules import Schedule, by_name, hyperparameters, total_steps
from trainer.engine.out_of_memory import OutOfMemory
from trainer.engine.speed import compilation
from trainer.engine.speed.memory_format import MemoryFormat
from trainer.engine.step import Step
from trainer.engine.summary import model_table
from trainer.engine.timing import Clock
from trainer.engine.train_mode import TrainMode
from trainer.engine.training_checks import SkippedUpdates, Untrained
from trainer.parallel import strategy
from utils.errors import Interrupted, Stopped, UsageError
from utils.process import group
from utils.process.watchdog import before_ending, fail_together, heartbeat
from utils.run_folder import Run
from utils.signals import StopSignal
from utils.tensors import unwrap


class BaseTrainer(Step):
    """Runs `train_step` for every step and `eval_step` for every batch of a validation.

    Progress is the number of completed optimizer steps, `step`. Each attribute that has a `state_dict` (also inside
    lists and dicts) is saved in every checkpoint, unless its name starts with `_`.
    """

    loss_names: tuple[str, ...] = ("loss",)  # what train_step and eval_step record besides the metrics
    calls_parts = False  # does train_step call parts of the model (self.model.generator), not the model itself?
    takes_pairs = False  # is a batch (inputs, targets) to train_step, whatever the data set returns?

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        owner = next(c for c in cls.__mro__ if "train_step" in vars(c))
        cls.takes_pairs = vars(cls).get("takes_pairs", vars(owner).get("takes_pairs", False))  # a step of one's own: no

    def __init__(
        self,
        model: nn.Module,
        criterion: Any,
        metrics: Sequence[Any],
        optimizer: Any,
        config: Any,
        device: torch.device,
        data_loader: Any,
        valid_data_loader: Any = None,
        lr_scheduler: Any = None,
        callbacks: Sequence[Any] = (),
        run: Run | None = None,
        writers: Sequence[Writer] | None = None,
    ) -> None:
        super().__init__()
        self.config, self.options, self.seed = config, config.run.trainer, config.run.seed
        self.device, self.rank, self.world_size = device, group.rank(), group.world_size()
        model = model.to(device)
        self.compiler = compilation.Compiler(self.options.compile)
        self.compiler.compile(model)
        mixing = getattr(data_loader, "batch_transforms", None)  # for example MixUp
        self.criterion = Loss(criterion, device, config.facts.get("num_classes"), mixing, valid_data_loader is not None)
        more = [p for _, p in self.criterion.named_parameters()]
        self.parallel = strategy(self.options)(model, self.options, device, self.calls_parts, more)
        self.model: Any = self.parallel.model
        labels, class_names = [part.label for part in config.run.metrics], config.facts.get("class_names", ())
        self.metrics = Metrics(metrics, device, labels, mixing, class_names)
        self.optimizer, self.lr_scheduler, self.callbacks = optimizer, lr_scheduler, list(callbacks)
        self._schedules: list[Schedule] = list(by_name(lr_scheduler).values())
        self.built_with = {name: hyperparameters(o) for name, o in by_name(optimizer).items()}  # before any resume
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.options.precision == "fp16")
        self.data_loader, self.valid_data_loader = data_loader, valid_data_loader
        if optimizer is not None:  # a test has other data
            self.data_state = data_loader.data_state()  # what callbacks change in the data set
        self.steps_per_epoch = data_loader.steps_per_epoch
        self.max_steps = total_steps(self.options, self.steps_per_epoch)
        self.due = Due(self.options, self.steps_per_epoch, self.max_steps, valid_data_loader is not None)
        self._start_progress()
        self.run = run
        self.saving: Saving | None = None  # from open() on
        self.finite = FiniteCheck(device)
        self.skipped_updates = SkippedUpdates(self.scaler)
        self._untrained: Untrained | None = None  # while it trains
        self.clock = Clock(device)
        self.out_of_memory = OutOfMemory(self)
        self._mode = TrainMode(self.model)
        self.memory_format = MemoryFormat(self.model, automatic=self.options.channels_last is None)
        verbosity = self.options.verbosity if self.rank == 0 else 0
        writers = default_writers(self.options.tensorboard) if writers is None else writers
        self.reporter = Reporter(verbosity, writers, self.max_steps, self.steps_per_epoch)
        self.signal = StopSignal(self.options.max_time)
        self.stop_votes = group.DelayedMax()  # of all ranks
        self.interrupted = False  # by a signal
        self.evaluating = ""  # what an evaluation runs on: validation, validation on NAME, test

    def _start_progress(self) -> None:
        """Where the run is: at its start, until a checkpoint is restored."""
        self.step = 0  # completed optimizer steps
        self.last_completed_step = 0  # the last step whose validation, best and after_epoch are done
        self.skipped: list[int] = []  # samples that could not be read
        self.monitor = Monitor(self.options.monitor, self.options.early_stop, self.options.keep_best)
        if self.optimizer is not None and self.valid_data_loader is None and self.monitor.key.startswith("val_"):
            raise UsageError(
                f"trainer.monitor: this run has no validation, so there is no {self.monitor.key}; give "
                f"data_loader.args.validation_split, or monitor a training value such as min loss"
            )
        self._sums = self.window = Sums()  # since the last log point
        self.epoch_sums = Sums()  # from the start of the epoch to the last log point
        self.stop_reason: str | None = None
        self.values: dict[str, float] = {}  # of the last epoch or validation

    # -- for trainer.py: see also step.py -----------------------------------------------------------------------------

    def train_step(self, batches: Sequence[Any]) -> None:
        """One optimizer step from the micro-batches of this rank."""
        raise NotImplementedError

    def eval_step(self, batch: Any) -> Any:
        """Record the loss and metrics of one batch, in eval mode and without gradients. Returns the outputs."""
        raise NotImplementedError

    def predict_step(self, inputs: Any) -> Any:
        """The outputs for inputs without targets."""
        raise NotImplementedError

    def inputs_of(self, batch: Any) -> Any:
        """What predict_step gets of a batch of the loader: its first part."""
        return batch[0] if isinstance(batch, (list, tuple)) else batch

    def stop(self, reason: str) -> None:
        """Ask the loop to end after this step; for callbacks."""
        self.stop_reason = reason

    # -- the loop -----------------------------------------------------------------------------------------------------

    def train(self) -> None:
        """Train from `step` to the end. Raises Interrupted after a signal, Stopped if it has to give up."""
        try:
            with fail_together():  # here, while log.txt is open to errors of other ranks
                self._train()
        except Stopped as e:  # with several ranks, none gets here: the watchdog reports the first cause
            self.reporter.note(e)
            raise
        except Interrupted:
            raise
        except Exception:
            self._discard()
            raise
        finally:
            self.reporter.close()
            heartbeat("")
            self.signal.restore()

    def _train(self) -> None:
        self.signal.install()
        with self._started() as stream:
            if self.last_completed_step < self.step:
                self.complete_step()  # a signal cut it short in the run that is continued here
            ending = self.ending()
            self.save_if_due(ending)
            while not ending:
                log_due = self.due.log(self.step + 1)
                rates = self.run_step(stream, log_due)  # step
                if log_due:
                    with self.clock.phase("logging"):
                        self.reporter.train_point(self.step, self.collect() | rates)  # log
                self.complete_step()  # validate
                ending = self.ending()
                self.save_if_due(ending)  # save
            stopping.stop(self)  # stop

    @contextlib.contextmanager
    def _started(self) -> Iterator[Iterator[Any]]:
        """The micro-batches from `step` on; explains what ends the loop, and leaves nothing running."""
        self.before_steps()
        self.skipped_updates.start()
        named = [*unwrap(self.model).named_parameters(), *self.criterion.named_parameters()]
        self._untrained = Untrained(named, self.optimizers())
        self.reporter.start(self.step)
        self.compiler.start(self.device, self.calls_parts)
        self.clock.start()
        stream = self.out_of_memory.stream()
        try:
            yield stream
        except Exception as e:
            known = stopping.explained(self, e)
            if known is not e:
                raise known from e
            raise
        finally:
            stream.close()
            for loader in by_name(self.valid_data_loader).values():
                loader.close()
            if self.saving is not None:
                self.saving.wait()

    def before_steps(self) -> None:
        """What comes before the step that is next: of a new run, a continued one, and where steps are run again."""
        for callback in self.callbacks:
            if hasattr(callback, "before_training"):
                callback.before_training(self)
        self._mode.start()

    def ending(self) -> bool:
        """Should this run end now? All ranks must call it."""
        self.interrupted = self.interrupted or self.asked_to_stop()
        return self.interrupted or self.finished

    def asked_to_stop(self) -> bool:
        """Has a signal come on any rank, or is its time up? On several ranks it takes effect one step later, on all."""
        asked = self.signal.poll()
        if self.world_size > 1:
            asked = self.stop_votes(asked)
            self.signal.number = max(self.signal.number, asked)
        return asked > 0

    def run_step(self, stream: Iterator[Any], log_due: bool = False) -> dict[str, float]:
        """One optimizer step. Returns the learning rates it used, where they are to be logged."""
        with self.phase("data"):
            batches = self.read(stream)
        if log_due:
            self.clock.measure_device()
        with self.phase("forward"):
            if self.step == 0 and batches:
                names = self.config.facts.get("class_names")
                model_table.show(self, batches[0].data)
                self.reporter.inputs(batches[0].data, getattr(self.data_loader, "normalization", None), names)
            if self.out_of_memory.active:
                self.out_of_memory.compute(batches, stream)
            elif self._step_size:  # else every sample of it was bad
                with self.parallel.translated_errors():
                    self.compute_step(batches)
            self.parallel.sync_buffers()
        self.doing("other")
        rates = self.learning_rates() if log_due else {}  # of this step, before the schedules advance
        self.step += 1
        end_of_epoch = self.step % self.steps_per_epoch == 0
        for schedule in self._schedules:
            schedule.after_step(end_of_epoch)
        for callback in self.callbacks:
            if hasattr(callback, "after_step"):
                callback.after_step(self)
        if self._untrained is not None:
            self._untrained.after_step(end_of_epoch, self.skipped_updates.updates)
        self.reporter.step(self._step_size)
        return rates

    def collect(self) -> dict[str, float]:
        """The means since the last log point. Waits for the device; nothing else between two log points does."""
        self.finite.now()
        self.skipped_updates.check(at_end=self.step == self.max_steps)
        sums = self.window.read()
        self.clock.waited()
        self.window.clear()
        self.epoch_sums.merge(sums)
        return means(sums)

    def learning_rates(self) -> dict[str, float]:
        return learning_rates(self.optimizer)

    def optimizers(self) -> list[Optimizer]:
        return list(by_name(self.optimizer).values())

    def schedules(self) -> list[Schedule]:
        return self._schedules

    def complete_step(self) -> None:
        """Do what is due between two steps. After a signal it is left undone, and a resume does it first."""
        end_of_epoch = self.step % self.steps_per_epoch == 0
        validates = self.due.validation(self.step)
        if end_of_epoch or validates:
            between_steps.complete(self, end_of_epoch, validates)
        else:
            self.last_completed_step = self.step

    def evaluate(self, loader: Any, label: str = "evaluation", number: int = 0) -> dict[str, float] | None:
        """The mean of each recorded value over all samples of `loader`; None after a signal. number: see Evaluation."""
        with self.clock.phase("validation"):
            return evaluation.Evaluation(self, loader, label, number).run()

    def train_mode(self) -> None:
        """Put the model into train mode, frozen parts excepted (train_mode.py)."""
        self._mode.train()

    @contextlib.contextmanager
    def eval_mode(self) -> Iterator[None]:
        """Within this, the model is in eval mode and computes no gradients."""
        with self._mode.eval(), self.parallel.no_grad():
            yield

    def save_if_due(self, ending: bool) -> None:
        if self.saving is None:
            return
        self.saving.report_failure()
        if self.saving.due(ending):
            with self.clock.phase("checkpoints"):
                self.saving.save()

    # -- when ---------------------------------------------------------------------------------------------------------

    @property
    def finished(self) -> bool:
        """Is the run complete?"""
        if self.last_completed_step != self.step:
            return False
        return self.step >= self.max_steps or self.stop_reason is not None or self.monitor.stop

    @property
    def why_finished(self) -> str:
        all_done = "all its steps are done; to continue, raise trainer.epochs or trainer.max_steps"
        return stopping.early_reason(self) or all_done

    # -- start --------------------------------------------------------------------------------------------------------

    def open(self, saved: Mapping[str, Any] | None) -> None:
        """Start writing into the run's folder, whose logs continue those of the checkpoint (or of none)."""
        assert self.run is not None
        self.saving = Saving(self, self.run)
        if self.rank == 0:
            if self.world_size > 1:
                before_ending.append(self._discard)
            sizes, unwritten = (saved["logs"], saved["unwritten"]) if saved else ({}, {})
            try:
                self.reporter.open(self.run.folder, sizes, unwritten, self.config.to_dict(), self.step)
            except Exception:
                self._discard()
                raise

    def _discard(self, exit_code: int = UsageError.exit_code) -> None:
        """Remove the folder of a run that failed before its first step; one that stopped by itself (3) keeps it."""
        if self.step == 0 and self.run is not None and exit_code != Stopped.exit_code:
            self.reporter.close()
            self.run.discard()
