"""Reports what a run does: values to metrics.jsonl and the writers, lines to console and log.txt, a progress bar."""

import contextlib
import logging
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from logger import console
from logger.append_only_file import AppendOnlyFile
from logger.background import Background
from logger.console import as_text, log
from logger.estimate import Estimate, clock_text
from logger.image_grid import Normalization, captions, image_grid, is_images
from logger.metrics_jsonl import MetricsJsonl
from logger.progress_bar import ProgressBar
from logger.writer import RunInfo, Writer
from utils.errors import UsageError


class Reporter:
    """The one place that a trainer reports to. Until `open` it writes no files."""

    def __init__(self, verbosity: int, writers: Sequence[Writer], max_steps: int, steps_per_epoch: int) -> None:
        self.max_steps, self.steps_per_epoch = max_steps, steps_per_epoch
        self.progress = ProgressBar(verbosity >= 2)
        self._given = list(writers)
        self.writers: list[Writer] = []  # that are open
        self._metrics: MetricsJsonl | None = None  # while it is open
        self._folder = Path()
        self._log_file: logging.Handler | None = None
        self._muted = False
        self._run_start = self._interval_start = time.perf_counter()
        self._first_step = 0
        self._interval_samples = 0  # since the last log point
        self._epoch_samples, self._epoch_seconds = 0, 0.0
        self._samples, self._seconds = 0, 0.0  # of all training in this process, up to the last log point
        self._step = 0  # completed steps
        self._estimate = Estimate()

    # -- files --------------------------------------------------------------------------------------------------------

    def open(
        self,
        folder: Path,
        sizes: Mapping[str, int],
        unwritten: Mapping[str, bytes],
        config: Mapping[str, Any] | None = None,
        step: int = 0,
    ) -> None:
        """Start writing into the run's folder, cut back to the checkpoint of this step, which had these file sizes."""
        self._log_file, self._folder = console.log_to(folder), folder
        self._metrics = metrics = MetricsJsonl(folder)
        metrics.cut(sizes, unwritten)
        run = RunInfo(folder, config or {}, shlex.join(["python", *sys.argv]), step)
        for given in self._given:
            writer = Background(given, metrics.points) if given.background else given
            writer.cut(folder, sizes, unwritten)
            try:
                writer.open(run)
            except Exception as e:
                reason = str(e).strip() or type(e).__name__
                raise UsageError(
                    f"logger: {type(given).__name__} could not start: {reason}; correct its arguments, or remove it "
                    f"from the key `logger`"
                ) from e
            self.writers.append(writer)
            if step:
                writer.catch_up(metrics.points())

    def open_for_test(self, writers: Sequence[Writer] | None, run: RunInfo) -> None:
        """Show a test of this run in its writers (None: those of the config's default); warns where one cannot."""
        for given in self._given if writers is None else writers:
            writer = Background(given, lambda: MetricsJsonl(run.folder).points()[-1:]) if given.background else given
            try:
                writer.open(run)
                self.writers.append(writer)
            except Exception as e:
                reason = f"{type(e).__name__}: {e}"
                log.warning(f"logger: {type(given).__name__} does not show the test result: {reason}")

    def test_result(self, step: int, epoch: int, values: Mapping[str, float]) -> None:
        for writer in self._open():
            writer.scalars(step, epoch, "test", values)

    def sizes(self) -> dict[str, int]:
        """The size of each file in bytes, for the checkpoint."""
        return {self._name(file): file.size for file in self._files()}

    def unwritten(self) -> dict[str, bytes]:
        """For the checkpoint: what a full disk has not taken of each file, after one more attempt."""
        files = self._files()
        for file in files:
            file.flush()
        return {self._name(file): bytes(file.unwritten) for file in files if file.unwritten}

    def _files(self) -> list[AppendOnlyFile]:
        own = [] if self._metrics is None else self._metrics.files()
        return own + [file for writer in self.writers for file in writer.files()]

    def _name(self, file: AppendOnlyFile) -> str:
        return file.path.relative_to(self._folder).as_posix()

    def note(self, error: Exception) -> None:
        """Write to log.txt why the run ends; the console shows it when the program ends."""
        if self._log_file is not None:
            self._log_file.handle(log.makeRecord(log.name, logging.ERROR, "", 0, str(error), (), None))

    def close(self) -> None:
        self.progress.stop()
        for writer in self.writers:
            writer.close()
        self.unwritten()
        self.writers.clear()
        self._metrics = None
        if self._log_file is not None:
            log.removeHandler(self._log_file)
            self._log_file.close()
            self._log_file = None

    @contextlib.contextmanager
    def muted(self) -> Iterator[None]:
        """Report nothing in here, in no file, line or bar, and do not count its time: for steps that are replayed."""
        muted, progress = self._muted, self.progress
        self._muted, self.progress = True, ProgressBar(False)
        began = time.perf_counter()
        try:
            yield
        finally:
            self._muted, self.progress = muted, progress
            seconds = time.perf_counter() - began
            self._run_start += seconds
            self._interval_start += seconds

    @property
    def is_muted(self) -> bool:
        return self._muted

    # -- progress -----------------------------------------------------------------------------------------------------

    def start(self, step: int) -> None:
        """The run begins, or continues, at `step`."""
        if not self._muted:
            self._run_start, self._first_step = time.perf_counter(), step
            self._estimate = Estimate()
            self.start_epoch(step)

    def start_epoch(self, step: int) -> None:
        """Training begins or continues; call it after a validation too, whose time is not training time."""
        if self._muted:
            return
        self._step, offset = step, step % self.steps_per_epoch
        if offset == 0:
            self._epoch_samples, self._epoch_seconds = 0, 0.0
        if step < self.max_steps:
            total = min(self.steps_per_epoch, self.max_steps - step + offset)
            self.progress.start(self._epoch_label(step + 1), total, offset, delay=0, live=self._live)
        self._interval_start, self._interval_samples = time.perf_counter(), 0

    def step(self, samples: int) -> None:
        if not self._muted:
            self._interval_samples += samples
            self._step += 1
            self.progress.step()
            if not self._estimate.done and (text := self._estimate.after_step(self.max_steps - self._step)):
                log.info(text)

    def values(self, split: str, step: int, values: Mapping[str, float]) -> None:
        """Write a point of `split` at `step`."""
        if self._metrics is not None and not self._muted:
            self._metrics.scalars(step, self.epoch(step), split, values)
        self.details(step, split, values)

    def details(self, step: int, split: str, values: Mapping[str, float], repeats: bool = True) -> None:
        """Values for the writers alone, not for metrics.jsonl. repeats: does a rerun of the step give the same?"""
        for writer in self._open():
            if repeats or writer.can_cut:
                writer.scalars(step, self.epoch(step), split, values)

    def _open(self) -> list[Writer]:
        return [] if self._muted else self.writers

    @property
    def shows(self) -> bool:
        """Does any writer get what is given now? If not, a picture need not be drawn."""
        return bool(self._open())

    def train_point(self, step: int, values: Mapping[str, float]) -> None:
        """Write a training point, show speed and time left. No rerun repeats the speed, so metrics.jsonl has none."""
        if self._muted:
            return
        now = time.perf_counter()
        samples, seconds = self._interval_samples, now - self._interval_start
        self._epoch_samples += samples
        self._epoch_seconds += seconds
        self._samples += samples
        self._seconds += seconds
        self._interval_start, self._interval_samples = now, 0
        self.values("train", step, values)
        self.details(step, "train", {"samples_per_s": samples / max(seconds, 1e-9)}, repeats=False)
        speed = self._speed(step, samples, seconds)
        self.progress.values(as_text(values))
        if step % self.steps_per_epoch:  # otherwise the line of the epoch follows
            self._print(log.debug, f"  step {self._step_label(step)}", as_text(values), speed)

    def training_speed(self) -> float:
        """Samples per second of all training in this process, without validation."""
        return self._samples / self._seconds if self._seconds else 0.0

    def _live(self) -> list[str]:
        """The time left and the speed right now, for the bar."""
        seconds = self._epoch_seconds + time.perf_counter() - self._interval_start
        return self._speed(self._step, self._epoch_samples + self._interval_samples, seconds)[::-1]

    def summary(self, step: int, values: Mapping[str, float], end_of_epoch: bool, best: str = "") -> None:
        """The line of an epoch, or of a validation within one. best: the value that is the best so far, by its name."""
        if self._muted:
            return
        parts = as_text(values, best)
        if end_of_epoch:
            label = f"{self._epoch_label(step)}  step {step:>{len(str(self.max_steps))}}"
            self._print(log.info, label, parts, self._speed(step, self._epoch_samples, self._epoch_seconds))
        else:
            self._print(log.info, f"  step {self._step_label(step)}", parts)

    def picture(self, name: str, picture: Tensor, step: int) -> None:
        """Show a picture [C, H, W], values 0..1."""
        for writer in self._open():
            writer.image(name, picture, step)

    def text(self, name: str, text: str, step: int) -> None:
        """Show text of several lines."""
        for writer in self._open():
            writer.text(name, text, step)

    def histogram(self, name: str, values: Tensor, step: int) -> None:
        """Show how the finite ones of these values are distributed. Waits for the device."""
        if self.shows:
            flat = values.detach().flatten().float().cpu().numpy()
            flat = flat[np.isfinite(flat)]
            for writer in self._open() if len(flat) else ():
                writer.histogram(name, flat, step)

    def embedding(self, name: str, vectors: Tensor, labels: Sequence[str], images: Tensor | None, step: int) -> None:
        """Show vectors [N, D], with a label each and images [N, C, H, W], values 0..1, where there are."""
        for writer in self._open():
            writer.embedding(name, vectors, labels, images, step)

    def result(self, step: int, values: Mapping[str, float], monitor: Any) -> None:
        """The run is finished; monitor: knows the best value, if there is one."""
        best = {} if monitor.best is None else {f"best_{monitor.key}": monitor.best, "best_step": monitor.best_step}
        for writer in self._open():
            writer.result(step, {**values, **best})

    def inputs(
        self, batch: Any, normalization: Normalization | None = None, class_names: Sequence[str] | None = None
    ) -> None:
        """Show the first images that the model gets, as it gets them, with their labels; the normalization is undone
        where it is known."""
        inputs, targets = batch[:2] if isinstance(batch, (list, tuple)) and len(batch) > 1 else (batch, None)
        if self.shows and is_images(inputs):
            labels = captions(targets, class_names)
            self.picture("train/inputs", image_grid(inputs[:64], normalization=normalization, labels=labels), 0)

    def epoch(self, step: int) -> int:
        """The epoch, from 1, that step `step` belongs to; `step` is the number of completed steps."""
        return max(1, -(-step // self.steps_per_epoch))

    def _print(
        self, print_line: Callable[..., None], label: str, parts: Sequence[str], speed: Sequence[str] = ()
    ) -> None:
        print_line("  ".join([label, *parts]), extra={"speed": "".join(f"  {text}" for text in speed)})

    def _speed(self, step: int, samples: int, seconds: float) -> list[str]:
        """Samples per second, and the time left at the average pace of the run, with validation and saving."""
        texts = [f"{samples / max(seconds, 1e-9):,.0f} samples/s"]
        if step < self.max_steps:
            pace = (time.perf_counter() - self._run_start) / max(step - self._first_step, 1)
            texts.append(f"{clock_text((self.max_steps - step) * pace)} left")
        return texts

    def _epoch_label(self, step: int) -> str:
        epochs = self.epoch(self.max_steps)
        return f"epoch {self.epoch(step):>{len(str(epochs))}}/{epochs}"

    def _step_label(self, step: int) -> str:
        return f"{step:>{len(str(self.max_steps))}}/{self.max_steps}"
