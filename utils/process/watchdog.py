"""Ends all ranks when one fails or hangs, and reports the first cause.

Twice a second, a thread of each rank writes to the run's store what the rank is doing, and checks whether another one
has failed. A rank without progress for `timeout` seconds compares these notes, which show whom the others wait for.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from utils.errors import Interrupted
from utils.exit_codes import traceback_of

PERIOD = 0.5  # seconds between notes
Tell = Callable[[str], None]

before_ending: list[Callable[[int], None]] = []  # called with the exit code before a failure ends this process


class Progress:
    """What this process is doing, and its position in the run; all ranks pass the same positions."""

    at: tuple[int, ...] = ()
    doing = ""


def heartbeat(doing: str, *at: int) -> None:
    """Record progress: what begins now, and a position `at` that grows with the run and starts with the steps done.

    {step} in `doing` becomes the current step; an empty `doing` means that waiting is fine. Costs no communication.
    """
    Progress.at, Progress.doing = at, doing


class Watchdog(threading.Thread):
    """tell: prints a message; on rank 0 it goes to log.txt too."""

    def __init__(self, key: str, timeout: float, tell: Tell) -> None:
        # Imported by ranks only: on Windows and macOS it prints a note
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        super().__init__(name="watchdog", daemon=True)
        self.rank, self.world, self.timeout, self.tell = dist.get_rank(), dist.get_world_size(), timeout, tell
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        wait = timedelta(seconds=10)
        # Its own connection: the default group's may be blocked by a waiting call
        client = dist.TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=wait)
        self.store = dist.PrefixStore(key, client)
        self._error_handler = get_error_handler()
        self._lock = threading.Lock()  # this thread and the main one both report errors
        self._stopping = threading.Event()
        self._beats = 0
        self._note()

    def stop(self) -> None:
        self._stopping.set()
        self.join()

    # -- the thread -----------------------------------------------------------------------------------------------

    def run(self) -> None:
        at, since = Progress.at, time.monotonic()
        while not self._stopping.wait(PERIOD):
            try:
                self._note()
                if self.store.check(["failed"]):
                    self._end(**self._failure())
                if Progress.at != at or not Progress.doing:
                    at, since = Progress.at, time.monotonic()
                elif time.monotonic() - since > self.timeout:
                    self._end(**self._claim(self._hanging(), 3))
            except dist.DistError:  # lost the store, and with it the notes of the others
                self._end(self.rank, f"lost rank 0, which hosts the rendezvous store; {self._where()}", 1)

    def _note(self) -> None:
        self._beats += 1
        at, doing = Progress.at, Progress.doing
        doing = doing.replace("{step}", str(at[0] + 1)) if at else doing
        self.store.set(f"note/{self.rank}", json.dumps([self._beats, at, doing, self._where()]))

    def _notes(self) -> list[Any]:
        return [json.loads(note) for note in self.store.multi_get([f"note/{r}" for r in range(self.world)])]

    def _where(self) -> str:
        return f"{socket.gethostname()}, process {os.getpid()}"

    def _hanging(self) -> str:
        """The ranks that the others wait for: those that write no more notes, or else those furthest behind."""
        ranks, notes = self._silent()
        if ranks:
            what = "gives no sign of life: it was stopped or killed, or lost its network"
        else:
            least = min(note[1] for note in notes)
            ranks = [r for r, note in enumerate(notes) if note[1] == least]
            what = f"hangs in: {notes[ranks[0]][2]}"
            if len(ranks) == self.world:
                what += " (as do all ranks)"
        who = "; ".join(f"rank {r} ({notes[r][3]})" for r in ranks)
        return (
            f"{who} {what}\nNothing moved for trainer.timeout = {self.timeout:g} seconds. The last checkpoint is "
            f"intact; if a step, a batch or a save can take longer, raise trainer.timeout"
        )

    def _silent(self) -> tuple[list[int], list[Any]]:
        """The ranks that write no more notes, and all notes."""
        before = self._notes()
        for _ in range(5):
            time.sleep(PERIOD / 2)
            self._note()  # other ranks may be checking too
        after = self._notes()
        return [r for r in range(self.world) if after[r][0] == before[r][0] and r != self.rank], after

    # -- who was first ----------------------------------------------------------------------------------------------

    def _claim(self, text: str, code: int) -> dict[str, Any]:
        """The first failure of the run: this one, unless another rank reported one before."""
        own = json.dumps({"rank": self.rank, "text": text, "code": code})
        return json.loads(self.store.compare_set("failed", "", own))

    def _failure(self) -> dict[str, Any]:
        return json.loads(self.store.get("failed"))

    def failed(self, error: BaseException) -> None:
        """End this process after an error in its main thread; reports it if it is the first of the run."""
        try:
            if _of_others(error):
                self._end(**self._others())
            self._error_handler.record_exception(error)  # torchrun reports the first one
            code = getattr(error, "exit_code", 1)
            text = str(error)
            if not hasattr(error, "exit_code"):
                text = traceback_of(error).strip()
            self._end(**self._claim(text, code))
        except dist.DistError:  # lost the store too
            self._end(self.rank, f"(lost rank 0) {type(error).__name__}: {error}", 1)

    def _others(self) -> dict[str, Any]:
        """Why the connection to another rank broke: what it reported, or that it ended silently."""
        if self._wait(lambda: self.store.check(["failed"])):
            return self._failure()
        ranks, notes = self._silent()
        dead = "; ".join(f"rank {r} ({notes[r][3]}), last seen in: {notes[r][2] or 'startup'}," for r in ranks)
        return self._claim(f"{dead or 'a rank'} ended without an error message: killed, or out of memory", 1)

    @staticmethod
    def _wait(until: Callable[[], bool]) -> bool:
        """Wait a moment until it is true; returns whether it is."""
        deadline = time.monotonic() + 3 * PERIOD
        while not (happened := until()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return happened

    def _end(self, rank: int, text: str, code: int) -> None:
        """Report the failure once, on rank 0 if it is alive, and end this process."""
        text = text if text.startswith("rank ") else f"rank {rank} failed: {text}"
        with self._lock:
            reported = False
            with contextlib.suppress(dist.DistError):
                if self.rank == 0:
                    self.tell(text)
                    reported = True
                    self.store.set("reported", "")
                    self._wait(lambda: self.store.add("gone", 0) == self.world - 1)  # it may host the store: ends last
                else:
                    reported = rank != self.rank or self._wait(lambda: self.store.check(["reported"]))
                    self.store.add("gone", 1)
            if not reported:
                self.tell(text)
            if f"rank {self.rank} (" in text:  # this rank hangs: show where
                stack = sys._current_frames()[threading.main_thread().ident or 0]
                print(f"rank {self.rank} is at:\n{''.join(traceback.format_stack(stack))}", file=sys.stderr)
            for leave in before_ending:
                leave(code)
            for thread in threading.enumerate():  # wait for a checkpoint that is being written
                if thread not in (threading.main_thread(), self, threading.current_thread()) and not thread.daemon:
                    thread.join(20)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)  # destructors of a process group would wait for lost ranks


def _of_others(error: BaseException) -> bool:
    """Whether the error only says that another rank is gone."""
    reported = f"{type(error).__name__}: {error}".lower()
    known = ("gloo", "nccl", "connection reset", "closed by peer", "connection refused", "broken pipe")
    return isinstance(error, (dist.DistError, RuntimeError)) and any(word in reported for word in known)


_watchdog: Watchdog | None = None


@contextlib.contextmanager
def watching(timeout: float, key: str, tell: Tell) -> Iterator[None]:
    """Run the watchdog; an error inside ends all ranks."""
    global _watchdog
    _watchdog = Watchdog(key, timeout, tell)
    _watchdog.start()
    try:
        with fail_together():
            yield
    finally:
        _watchdog.stop()
        _watchdog = None


@contextlib.contextmanager
def fail_together() -> Iterator[None]:
    """With several ranks, an error inside is reported and ends this process, and then the others."""
    try:
        yield
    except Interrupted:
        raise  # all ranks have saved and stop together
    except BaseException as e:
        if _watchdog is not None:
            _watchdog.failed(e)
        raise
