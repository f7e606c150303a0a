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
        self._speed = ""
        self.start_clock(0)

    def open(self, folder: Path, sizes: Mapping[str, int]) -> None:
        """Start writing into the run's folder, at the state of the checkpoint that had these file sizes."""
        self.writers = [JsonLines(folder), *([TensorBoard(folder)] if self.tensorboard else [])]
        for writer in self.writers:
            writer.cut(sizes)
        self._log_file = logger.log_to(folder)

    def sizes(self) -> dict[str, int]:
        """How long each file is, for the checkpoint; what was reported before is in them."""
        return {name: size for writer in self.writers for name, size in writer.sizes().items()}

    def close(self) -> None:
        self.progress.stop()
        for writer in self.writers:
            writer.close()
        if self._log_file is not None:
            log.removeHandler(self._log_file)
            self._log_file.close()
            self._log_file = None

    # -- a run's progress -----------------------------------------------------------------------------------------

    def start_epoch(self, step: int) -> None:
        epoch, offset = divmod(step, self.steps_per_epoch)
        if step < self.max_steps:
            total = min(self.steps_per_epoch, self.max_steps - step + offset)
            self.progress.start(f"epoch {epoch + 1}/{-(-self.max_steps // self.steps_per_epoch)}", total, offset)

    def start_clock(self, step: int) -> None:
        """Count time from here: what lies between (validation, saving) is not the speed of training."""
        self._since, self._samples, self._from = time.perf_counter(), 0, step

    def step(self, samples: int) -> None:
        self._samples += samples
        self.progress.step()

    def values(self, split: str, step: int, values: Mapping[str, float]) -> None:
        """Write a point of `split` at `step`."""
        for writer in self.writers:
            writer.scalars(step, self.epoch(step), split, values)

    def train_point(self, step: int, values: Mapping[str, float]) -> None:
        """Write a point of training, and tell speed and time left: not in metrics.jsonl, since no run repeats them."""
        self.values("train", step, values)
        seconds = max(time.perf_counter() - self._since, 1e-9)
        speed, left = self._samples / seconds, (self.max_steps - step) * seconds / max(step - self._from, 1)
        for writer in self.writers:
            if isinstance(writer, TensorBoard):
                writer.scalars(step, self.epoch(step), "train", {"samples_per_s": speed})
        self._speed = f"{speed:,.0f} samples/s  {_clock(left)} left"
        self.progress.values(f"{as_text(values)}  {self._speed}")
        if step % self.steps_per_epoch:  # else the line of the epoch follows
            log.debug(f"step {step}/{self.max_steps}  epoch {self.epoch(step)}  {as_text(values)}  {self._speed}")
        self.start_clock(step)

    def summary(self, step: int, values: Mapping[str, float], end_of_epoch: bool, best: bool) -> None:
        """The line of an epoch, or of a validation inside one."""
        what = f"epoch {self.epoch(step)}/{self.epoch(self.max_steps)}" if end_of_epoch else "validation"
        log.info(f"{what}  step {step}  {as_text(values)}  {self._speed}{'  best' if best else ''}")

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
