"""One progress bar on a terminal."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from tqdm import tqdm

REDRAW, IN_NOTEBOOK = 0.1, 1.0  # seconds between two drawings: each is a message to the browser
COLUMNS = 100  # of a bar in a notebook, which has no width of its own


def on_terminal() -> bool:
    """Whether stdout and stderr both go to a terminal, not to a file, a pipe or a notebook."""
    return sys.stdout.isatty() and sys.stderr.isatty()


def in_notebook() -> bool:
    """Whether stdout goes to the cell of a notebook, which takes a carriage return as a terminal does."""
    return type(sys.stdout).__module__.startswith("ipykernel.")


def can_redraw() -> bool:
    """Whether a line can be drawn again and again: the condition for a bar."""
    return on_terminal() or in_notebook()


class _Bar(tqdm):
    monitor_interval = 0  # starts no thread; each update looks at the time itself
    tail: Callable[[int], str] = staticmethod(lambda room: "")  # what follows, in this many columns

    @property
    def format_dict(self) -> dict[str, Any]:
        given = dict(super().format_dict)
        before = f"{self.desc} {' ' * 10} {self.n}/{self.total}"
        return given | {"tail": self.tail((given["ncols"] or 80) - len(before) - 1)}


class ProgressBar:
    """A bar over the steps of an epoch. Where no line can be redrawn it shows nothing: log lines report instead."""

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled and can_redraw()
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
            notebook = in_notebook()
            self._bar = _Bar(
                file=sys.stdout if notebook else sys.stderr,  # a cell keeps the two apart: the bar would break up
                mininterval=IN_NOTEBOOK if notebook else REDRAW,
                ncols=COLUMNS if notebook else None,
                desc=label,
                total=total,
                initial=done,
                delay=delay,
                bar_format="{desc} {bar:10} {n_fmt}/{total_fmt}{tail}",
                leave=False,
                dynamic_ncols=not notebook,
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
