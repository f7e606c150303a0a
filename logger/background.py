"""Calls a writer in a thread, so that no training step waits for a network or a database."""

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from logger.console import log
from logger.writer import RunInfo, Writer

WAITS = (1.0, 4.0, 15.0)  # seconds before each further attempt
PATIENCE = 60.0  # seconds that the end of a run waits for what is left


class Background(Writer):
    """Passes each call on to `writer`, in order. A call that fails is tried again; training goes on whatever happens.

    missing: gives the points of metrics.jsonl that `close` sends again where calls failed for good.
    """

    def __init__(self, writer: Writer, missing: Callable[[], Sequence[Mapping[str, Any]]]) -> None:
        self.writer, self._missing = writer, missing
        self.name = type(writer).__name__
        self._calls: queue.SimpleQueue[tuple[str, tuple[Any, ...]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._lost = 0

    def open(self, run: RunInfo) -> None:
        self.writer.open(run)
        self._thread = threading.Thread(target=self._work, name=f"logger-{self.name}", daemon=True)
        self._thread.start()

    def scalars(self, step: int, epoch: int, split: str, values: Mapping[str, float]) -> None:
        self._calls.put(("scalars", (step, epoch, split, dict(values))))

    def image(self, name: str, picture: Tensor, step: int) -> None:
        self._calls.put(("image", (name, picture, step)))

    def text(self, name: str, text: str, step: int) -> None:
        self._calls.put(("text", (name, text, step)))

    def histogram(self, name: str, values: np.ndarray, step: int) -> None:
        self._calls.put(("histogram", (name, values, step)))

    def embedding(
        self, name: str, vectors: Tensor, labels: Sequence[str], images: Tensor | None = None, step: int = 0
    ) -> None:
        self._calls.put(("embedding", (name, vectors, labels, images, step)))

    def result(self, step: int, values: Mapping[str, float]) -> None:
        self._calls.put(("result", (step, dict(values))))

    def catch_up(self, points: Sequence[Mapping[str, Any]]) -> None:
        self._calls.put(("catch_up", (points,)))

    def close(self) -> None:
        """Waits a minute at most for what is left, then lets the library finish."""
        if self._thread is None:
            return
        self._closing.set()
        self._calls.put(None)
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            log.error(f"logger: {self.name} did not take everything within {PATIENCE:.0f} s; metrics.jsonl has it")
        else:
            self._done("close", ())  # here: a library may finish only what its own thread began
        self._thread = None

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            self._lost += not self._done(*call)
        if self._lost and self._done("catch_up", (self._missing(),)):
            log.info(f"logger: {self.name} works again; no point is missing")

    def _done(self, method: str, args: tuple[Any, ...]) -> bool:
        """Call a method, several times if it fails. Logs the first that failed for good."""
        for wait in (*WAITS, None):
            try:
                getattr(self.writer, method)(*args)
                return True
            except Exception as e:
                error = f"{type(e).__name__}: {e}"
            if wait is not None:
                self._closing.wait(wait)  # at the end of a run, at once
        if not self._lost:
            log.error(f"logger: {self.name}: {method} failed: {error}; the run goes on, and metrics.jsonl has it all")
        return False
