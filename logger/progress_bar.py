"""One progress bar on a terminal."""

import sys
from collections.abc import Sequence

from tqdm import tqdm


def on_terminal() -> bool:
    """Whether stdout and stderr both go to a terminal, not to a file or a pipe."""
    return sys.stdout.isatty() and sys.stderr.isatty()


class _Bar(tqdm):
    monitor_interval = 0  # starts no thread; each update looks at the time itself


class ProgressBar:
    """A bar over the steps of an epoch. Without a terminal it shows nothing: log lines report instead."""

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled and on_terminal()
        self._bar: _Bar | None = None
        self._values = ""

    def start(self, label: str, total: int, done: int = 0, delay: float = 0.5) -> None:
        """A new bar, shown after `delay` seconds: a shorter pass would only flicker."""
        self.stop()
        if self.enabled:
            self._bar = _Bar(
                desc=label,
                total=total,
                initial=done,
                delay=delay,
                postfix=self._values,
                bar_format="{desc} {bar:10} {n_fmt}/{total_fmt}{postfix}",
                leave=False,
                dynamic_ncols=True,
                miniters=1,
            )

    def step(self) -> None:
        if self._bar is not None:
            self._bar.update()

    def values(self, values: Sequence[str]) -> None:
        """Show these after the bar from now on, the most important first: the terminal's width cuts the rest."""
        self._values = ", ".join(values)
        if self._bar is not None:
            self._bar.set_postfix_str(self._values, refresh=False)

    def stop(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
