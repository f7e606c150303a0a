"""One progress bar on a terminal."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from tqdm import tqdm


def on_terminal() -> bool:
    """Whether stdout and stderr both go to a terminal, not to a file, a pipe or a notebook."""
    return sys.stdout.isatty() and sys.stderr.isatty()


class _Bar(tqdm):
    monitor_interval = 0  # starts no thread; each update looks at the time itself
    tail: Callable[[int], str] = staticmethod(lambda room: "")  # what follows, in this many columns

    @property
    def format_dict(self) -> dict[str, Any]:
        given = dict(super().format_dict)
        before = f"{self.desc} {' ' * 10} {self.n}/{self.total}"
        return given | {"tail": self.tail((given["ncols"] or 80) - len(before) - 1)}


class ProgressBar:
    """A bar over the steps of an epoch. Without a terminal it shows nothing: log lines report instead."""

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled and on_terminal()
        self._bar: _Bar | None = None
        self._values: Sequence[str] = ()
        self._live: Callable[[], Sequence[str]] | None = None

    def start(
        self,
        label: str,
        total: int,
        done: int = 0,
        delay: float = 0.5,
        live: Callable[[], Sequence[str]] | None = None,
    ) -> None:
        """A new bar, shown after `delay` seconds: a shorter pass would only flicker.

        live: gives what comes before the values whenever the bar is drawn, such as the speed.
        """
        self.stop()
        if self.enabled:
            self._live = live
            self._bar = _Bar(
                desc=label,
                total=total,
                initial=done,
                delay=delay,
                bar_format="{desc} {bar:10} {n_fmt}/{total_fmt}{tail}",
                leave=False,
                dynamic_ncols=True,
                miniters=1,
            )
            self._bar.tail = self._tail

    def step(self) -> None:
        if self._bar is not None:
            self._bar.update()

    def values(self, values: Sequence[str]) -> None:
        """Show these after the bar from now on, the most important first."""
        self._values = values

    def _tail(self, room: int) -> str:
        """The first value, what is live, then the other values, as far as they fit as a whole."""
        live = list(self._live()) if self._live is not None else []
        text = ""
        for part in [*self._values[:1], *live, *self._values[1:]]:
            if len(text) + len(part) + 2 > room:
                break
            text += f", {part}"
        return text

    def stop(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
