"""Tells what a run does: values to metrics.jsonl and TensorBoard, lines to console and log.txt, a bar on a terminal."""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from logger import logger
from logger.figures import image_grid, is_images
from logger.logger import Progress, as_text, log
from logger.writers import JsonLines, TensorBoard


class Reporter:
    """The one place a trainer reports to. Without a folder nothing is written."""

    def __init__(self, verbosity: int, tensorboard: bool, max_steps: int, steps_per_epoch: int) -> None:
        self.max_steps, self.steps_per_epoch = max_steps, steps_per_epoch
        self.progress = Progress(verbosity >= 2)
        self.tensorboard = tensorboard
        self.writers: list[Any] = []
        self._log_file: logging.Handler | None = None
        self._began = self._since = time.perf_counter()
        self._first = self._samples = self._epoch_samples = 0
        self._epoch_seconds = 0.0

    def open(self, folder: Path, sizes: Mapping[str, int], unwritten: Mapping[str, bytes]) -> None:
        """Start writing into the run's folder, at the state of the checkpoint that had these file sizes."""
        self._log_file = logger.log_to(folder)
        self.writers = [JsonLines(folder), *([TensorBoard(folder)] if self.tensorboard else [])]
        for writer in self.writers:
            writer.cut(sizes, unwritten)

    def sizes(self) -> dict[str, int]:
        """How long each file is, for the checkpoint: what was reported before is in them or in `unwritten`."""
        return {file.path.name: file.size for writer in self.writers for file in writer.files()}

    def unwritten(self) -> dict[str, bytes]:
        """What a full disk has not taken yet of each file, after one more try."""
        files = [file for writer in self.writers for file in writer.files()]
        for file in files:
            file.flush()
        return {file.path.name: bytes(file.unwritten) for file in files if file.unwritten}

    def note(self, error: Exception) -> None:
        """Write why the run ends to log.txt; the console is told where the program ends."""
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

    # -- a run's progress -----------------------------------------------------------------------------------------

    def start(self, step: int) -> None:
        """The run begins, or goes on, from `step`."""
        self._began, self._first = time.perf_counter(), step
        self.start_epoch(step)

    def start_epoch(self, step: int) -> None:
        """Also after a validation inside an epoch: neither that nor saving is the speed of training."""
        offset = step % self.steps_per_epoch
        if offset == 0:
            self._epoch_samples, self._epoch_seconds = 0, 0.0
        if step < self.max_steps:
            total = min(self.steps_per_epoch, self.max_steps - step + offset)
            self.progress.start(self._epoch_of(step + 1), total, offset, delay=0)
        self._since, self._samples = time.perf_counter(), 0

    def step(self, samples: int) -> None:
        self._samples += samples
        self.progress.step()

    def values(self, split: str, step: int, values: Mapping[str, float]) -> None:
        """Write a point of `split` at `step`."""
        for writer in self.writers:
            writer.scalars(step, self.epoch(step), split, values)

    def train_point(self, step: int, values: Mapping[str, float]) -> None:
        """Write a point of training, and tell speed and time left: not in metrics.jsonl, since no run repeats them."""
        now = time.perf_counter()
        samples, seconds = self._samples, now - self._since
        self._epoch_samples += samples
        self._epoch_seconds += seconds
        self._since, self._samples = now, 0
        measured = {**values, "samples_per_s": samples / max(seconds, 1e-9)}
        for writer in self.writers:
            writer.scalars(step, self.epoch(step), "train", measured if isinstance(writer, TensorBoard) else values)
        speed = self._speed(step, samples, seconds)
        self.progress.values([*speed[::-1], *as_text(values)])
        if step % self.steps_per_epoch:  # else the line of the epoch follows
            self._tell(log.debug, f"  step {self._step_of(step)}", values, *speed)

    def summary(self, step: int, values: Mapping[str, float], end_of_epoch: bool, best: bool) -> None:
        """The line of an epoch, or of a validation inside one."""
        what = f"{self._epoch_of(step)}  step {step:>{len(str(self.max_steps))}}"
        speed = self._speed(step, self._epoch_samples, self._epoch_seconds) if end_of_epoch else ()
        self._tell(log.info, what if end_of_epoch else f"  step {self._step_of(step)}", values, *speed, best=best)

    def _tell(self, tell: Any, what: str, values: Mapping[str, float], *speed: str, best: bool = False) -> None:
        line = "  ".join([what, *as_text(values), *(["best"] if best else [])])
        tell(line, extra={"speed": "".join(f"  {text}" for text in speed)})

    def _speed(self, step: int, samples: int, seconds: float) -> tuple[str, ...]:
        """Samples per second, and the time left at the pace of the whole run, validation and saving included."""
        speed = f"{samples / max(seconds, 1e-9):,.0f} samples/s"
        if step >= self.max_steps:
            return (speed,)
        pace = (time.perf_counter() - self._began) / max(step - self._first, 1)
        return speed, f"{_clock((self.max_steps - step) * pace)} left"

    def _epoch_of(self, step: int) -> str:
        epochs = self.epoch(self.max_steps)
        return f"epoch {self.epoch(step):>{len(str(epochs))}}/{epochs}"

    def _step_of(self, step: int) -> str:
        return f"{step:>{len(str(self.max_steps))}}/{self.max_steps}"

    def picture(self, name: str, picture: Any, step: int) -> None:
        """Show a picture [C, H, W], values 0..1, in TensorBoard."""
        for writer in self.writers:
            if isinstance(writer, TensorBoard):
                writer.image(name, picture, step)

    def inputs(self, inputs: Any) -> None:
        """Draw the first images that the model is given, as it is given them."""
        if self.writers and is_images(inputs):
            self.picture("train/inputs", image_grid(inputs[:64]), 0)

    def epoch(self, step: int) -> int:
        """The epoch, from 1, that `step` steps lead into or complete."""
        return max(1, -(-step // self.steps_per_epoch))


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
