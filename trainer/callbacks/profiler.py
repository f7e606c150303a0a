"""Profiler: where the time of a few steps goes, operator by operator."""

from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from logger.console import log
from utils.errors import UsageError

ROWS = 15  # operators in the table


class Profiler:
    """Profiles `steps` steps after the step `start`; writes RUN/profile/step<N>.json, for https://ui.perfetto.dev.

    It makes these steps slower, so it ends by itself; the table of the slowest operators is in log.txt and the writers.
    """

    def __init__(self, start: int = 20, steps: int = 5, memory: bool = False) -> None:
        if start < 1 or steps < 1:
            raise UsageError(f"callbacks: Profiler has start {start} and steps {steps}; give 1 or more for each")
        self.start, self.steps, self.memory = start, steps, memory
        self._profile: Any = None

    def before_training(self, trainer: Any) -> None:
        self._profile = None

    def after_step(self, trainer: Any) -> None:
        if trainer.rank:
            return
        if trainer.step == self.start:
            activities = [ProfilerActivity.CPU]
            if trainer.device.type == "cuda":
                activities.append(ProfilerActivity.CUDA)
            self._profile = profile(
                activities=activities,
                profile_memory=self.memory,
                record_shapes=True,
                acc_events=True,  # else torch 2.11 warns that it keeps the events of one cycle, and there is one
            )
            self._profile.start()
        elif self._profile is not None and trainer.step >= self.start + self.steps:
            self._end(trainer)

    def _end(self, trainer: Any) -> None:
        if trainer.device.type == "cuda":
            torch.cuda.synchronize(trainer.device)
        found, self._profile = self._profile, None
        found.stop()
        by = "self_cuda_time_total" if trainer.device.type == "cuda" else "self_cpu_time_total"
        table = found.key_averages().table(sort_by=by, row_limit=ROWS, max_name_column_width=40)
        trainer.reporter.text("train/profile", table, trainer.step)
        if trainer.run is not None:
            path = trainer.run.folder / "profile" / f"step{self.start}.json"
            path.parent.mkdir(exist_ok=True)
            found.export_chrome_trace(str(path))
            log.info(f"profile of {self.steps} steps: {path}; open it in https://ui.perfetto.dev")
