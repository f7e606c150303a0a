"""How long a run will take, logged once after its first steps."""

import time

WAIT = 10.0  # seconds after the first step: on a GPU, the first launches return at once
LONG = 60.0  # seconds: a shorter rest needs no estimate


class Estimate:
    """Measures from the end of the first step on, which also warms up."""

    def __init__(self) -> None:
        self.done = False
        self._since: float | None = None
        self._steps = 0

    def after_step(self, left: int) -> str | None:
        """The line to print, once. left: steps that are still to do."""
        now = time.perf_counter()
        if self._since is None:
            self._since = now
            return None
        self._steps += 1
        if (seconds := now - self._since) < WAIT:
            return None
        self.done = True
        rest = left * seconds / self._steps
        if rest < LONG:
            return None
        return f"about {clock_text(rest)} left for {left:,} steps, at {self._steps / seconds:,.2g} steps per second"


def clock_text(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
