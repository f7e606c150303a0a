"""Calls a writer in a thread, so that no training step waits for a network or a database."""

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from logger.console import log
from logger.writer import RunInfo, Writer

WAITS = (1.0, 4.0, 15.0)  # seconds before each further attempt
PATIENCE = 60.0  # seconds that the end of a run waits for what is left


def _queued(method: str) -> Callable[..., None]:
    """A method that puts a call of `method` in the queue; values that the caller may change later are copied."""

    def put(self: "Background", *args: Any) -> None:
        self._calls.put((method, tuple(dict(arg) if isinstance(arg, Mapping) else arg for arg in args)))

    return put


class Background(Writer):
    """Passes each call on to `writer`, in order. A call that fails is retried; training continues in any case.

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

    scalars = _queued("scalars")
    image = _queued("image")
    text = _queued("text")
    histogram = _queued("histogram")
    embedding = _queued("embedding")
    result = _queued("result")
    catch_up = _queued("catch_up")

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
        can_catch_up = type(self.writer).catch_up is not Writer.catch_up
        if self._lost and can_catch_up and self._done("catch_up", (self._missing(),)):
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
                self._closing.wait(wait)  # at the end of a run: without a delay
        if not self._lost:
            log.error(f"logger: {self.name}: {method} failed: {error}; the run goes on, and metrics.jsonl has it all")
        return False
