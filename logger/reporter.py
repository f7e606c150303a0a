"""Reports what a run does: values to metrics.jsonl and TensorBoard, lines to console and log.txt, a progress bar."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from logger import console
from logger.append_only_file import AppendOnlyFile
from logger.console import as_text, log
from logger.image_grid import Normalization, image_grid, is_images
from logger.metrics_jsonl import MetricsJsonl
from logger.progress_bar import ProgressBar
from logger.tensorboard import TensorBoard


class Reporter:
    """The one place that a trainer reports to. Until `open` it writes no files."""

    def __init__(self, verbosity: int, tensorboard: bool, max_steps: int, steps_per_epoch: int) -> None:
        self.max_steps, self.steps_per_epoch = max_steps, steps_per_epoch
        self.progress = ProgressBar(verbosity >= 2)
        self.tensorboard = tensorboard
        self.writers: list[MetricsJsonl | TensorBoard] = []
        self._log_file: logging.Handler | None = None
        self._muted = False
        self._run_start = self._interval_start = time.perf_counter()
        self._first_step = 0
        self._interval_samples = 0  # since the last log point
        self._epoch_samples, self._epoch_seconds = 0, 0.0

    # -- files --------------------------------------------------------------------------------------------------------

    def open(self, folder: Path, sizes: Mapping[str, int], unwritten: Mapping[str, bytes]) -> None:
        """Start writing into the run's folder, cut back to the checkpoint that had these file sizes."""
        self._log_file = console.log_to(folder)
        self.writers = [MetricsJsonl(folder)]
        if self.tensorboard:
            self.writers.append(TensorBoard(folder))
        for writer in self.writers:
            writer.cut(sizes, unwritten)

    def sizes(self) -> dict[str, int]:
        """The size of each file in bytes, for the checkpoint."""
        return {file.path.name: file.size for file in self._files()}

    def unwritten(self) -> dict[str, bytes]:
        """For the checkpoint: what a full disk has not taken of each file, after one more attempt."""
        files = self._files()
        for file in files:
            file.flush()
        return {file.path.name: bytes(file.unwritten) for file in files if file.unwritten}

    def _files(self) -> list[AppendOnlyFile]:
        return [file for writer in self.writers for file in writer.files()]

    def note(self, error: Exception) -> None:
        """Write to log.txt why the run ends; the console shows it when the program ends."""
        if self._log_file is not None:
            self._log_file.handle(log.makeRecord(log.name, logging.ERROR, "", 0, str(error), (), None))

    def close(self) -> None:
        self.progress.stop()
        self.unwritten()
        self.writers.clear()
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

    # -- progress -----------------------------------------------------------------------------------------------------

    def start(self, step: int) -> None:
        """The run begins, or continues, at `step`."""
        if not self._muted:
            self._run_start, self._first_step = time.perf_counter(), step
            self.start_epoch(step)

    def start_epoch(self, step: int) -> None:
        """Training begins or continues; call it after a validation too, whose time is not training time."""
        if self._muted:
            return
        offset = step % self.steps_per_epoch
        if offset == 0:
            self._epoch_samples, self._epoch_seconds = 0, 0.0
        if step < self.max_steps:
            total = min(self.steps_per_epoch, self.max_steps - step + offset)
            self.progress.start(self._epoch_label(step + 1), total, offset, delay=0)
        self._interval_start, self._interval_samples = time.perf_counter(), 0

    def step(self, samples: int) -> None:
        if not self._muted:
            self._interval_samples += samples
            self.progress.step()

    def values(self, split: str, step: int, values: Mapping[str, float]) -> None:
        """Write a point of `split` at `step`."""
        if not self._muted:
            for writer in self.writers:
                writer.scalars(step, self.epoch(step), split, values)

    def train_point(self, step: int, values: Mapping[str, float]) -> None:
        """Write a training point, show speed and time left. No rerun repeats the speed, so metrics.jsonl has none."""
        if self._muted:
            return
        now = time.perf_counter()
        samples, seconds = self._interval_samples, now - self._interval_start
        self._epoch_samples += samples
        self._epoch_seconds += seconds
        self._interval_start, self._interval_samples = now, 0
        with_speed = {**values, "samples_per_s": samples / max(seconds, 1e-9)}
        for writer in self.writers:
            point = with_speed if isinstance(writer, TensorBoard) else values
            writer.scalars(step, self.epoch(step), "train", point)
        speed = self._speed(step, samples, seconds)
        self.progress.values([*speed[::-1], *as_text(values)])
        if step % self.steps_per_epoch:  # otherwise the line of the epoch follows
            self._print(log.debug, f"  step {self._step_label(step)}", as_text(values), speed)

    def summary(self, step: int, values: Mapping[str, float], end_of_epoch: bool, best: bool) -> None:
        """The line of an epoch, or of a validation within one."""
        if self._muted:
            return
        parts = as_text(values)
        if best:
            parts.append("best")
        if end_of_epoch:
            label = f"{self._epoch_label(step)}  step {step:>{len(str(self.max_steps))}}"
            self._print(log.info, label, parts, self._speed(step, self._epoch_samples, self._epoch_seconds))
        else:
            self._print(log.info, f"  step {self._step_label(step)}", parts)

    def picture(self, name: str, picture: Tensor, step: int) -> None:
        """Show a picture [C, H, W], values 0..1, in TensorBoard."""
        for writer in self.writers:
            if isinstance(writer, TensorBoard) and not self._muted:
                writer.image(name, picture, step)

    def text(self, name: str, text: str, step: int) -> None:
        """Show text in TensorBoard."""
        for writer in self.writers:
            if isinstance(writer, TensorBoard) and not self._muted:
                writer.text(name, text, step)

    def inputs(self, inputs: Any, normalization: Normalization | None = None) -> None:
        """Show the first images that the model gets, as it gets them, but with the normalization undone if known."""
        if self.writers and is_images(inputs):
            self.picture("train/inputs", image_grid(inputs[:64], normalization=normalization), 0)

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
            texts.append(f"{_clock((self.max_steps - step) * pace)} left")
        return texts

    def _epoch_label(self, step: int) -> str:
        epochs = self.epoch(self.max_steps)
        return f"epoch {self.epoch(step):>{len(str(epochs))}}/{epochs}"

    def _step_label(self, step: int) -> str:
        return f"{step:>{len(str(self.max_steps))}}/{self.max_steps}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
