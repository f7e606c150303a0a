"""What keeps several processes from waiting for one that failed or hangs: the first cause is told, and all end.

A thread of each rank writes twice a second what the rank is doing to the run's store, and reads whether another one has
failed. A rank that got nowhere for `timeout` seconds compares these notes, which name the one the others wait for.
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
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from utils.errors import Interrupted

PERIOD = 0.5  # seconds between two notes
Tell = Callable[[str], None]


class Progress:
    """What this process is doing, and where in the run that is; all ranks come past the same places."""

    at: tuple[int, ...] = ()
    doing = ""


def beat(doing: str, *at: int) -> None:
    """Note that something new was begun, `at` growing with the run from the steps done on; {step} in `doing` is the
    step that is being done; "" where waiting is no sign of trouble. Hardly costs a thing: the notes do the rest."""
    Progress.at, Progress.doing = at, doing


class Watchdog(threading.Thread):
    """tell: writes a text for people; on rank 0 to log.txt too."""

    def __init__(self, key: str, timeout: float, tell: Tell) -> None:
        super().__init__(name="watchdog", daemon=True)
        self.rank, self.world, self.timeout, self.tell = dist.get_rank(), dist.get_world_size(), timeout, tell
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        wait = timedelta(seconds=10)
        # A connection of its own: the default group's may be held by a call that waits
        client = dist.TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=wait)
        self.store = dist.PrefixStore(key, client)
        self._lock = threading.Lock()  # who tells: this thread or the main one
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
            except dist.DistError:  # the process that holds the store is gone, and it alone could tell more
                self._end(self.rank, f"rank 0 is gone, and with it what joins the ranks; {self._where()}", 1)

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
        """Which ranks the others wait for: those that no longer write notes, or those that have come the least far."""
        ranks, notes = self._silent()
        if ranks:
            what = "gives no sign of life: it was stopped or killed, or its machine is gone"
        else:
            least = min(note[1] for note in notes)
            ranks = [r for r, note in enumerate(notes) if note[1] == least]
            what = f"hangs in: {notes[ranks[0]][2]}"
            if len(ranks) == self.world:
                what += " (all ranks alike)"
        who = "; ".join(f"rank {r} ({notes[r][3]})" for r in ranks)
        return (
            f"{who} {what}\nNothing moved for trainer.timeout = {self.timeout:g} seconds. The last checkpoint is "
            f"sound. Where a step, a batch or a save may take longer, raise trainer.timeout"
        )

    def _silent(self) -> tuple[list[int], list[Any]]:
        """The ranks that write no notes any more, and the notes."""
        before = self._notes()
        for _ in range(5):
            time.sleep(PERIOD / 2)
            self._note()  # others may look at the same time
        after = self._notes()
        return [r for r in range(self.world) if after[r][0] == before[r][0] and r != self.rank], after

    # -- who was first ----------------------------------------------------------------------------------------------

    def _claim(self, text: str, code: int) -> dict[str, Any]:
        """The first failure of the run: this one, if no rank told of one before."""
        own = json.dumps({"rank": self.rank, "text": text, "code": code})
        return json.loads(self.store.compare_set("failed", "", own))

    def _failure(self) -> dict[str, Any]:
        return json.loads(self.store.get("failed"))

    def failed(self, error: BaseException) -> None:
        """End this process after an error in its main thread; if it was the run's first, it is told as such."""
        try:
            if _of_others(error):
                self._end(**self._others())
            get_error_handler().record_exception(error)  # torchrun takes the first such as the cause
            code = getattr(error, "exit_code", 1)
            text = str(error) if hasattr(error, "exit_code") else "".join(traceback.format_exception(error)).strip()
            self._end(**self._claim(text, code))
        except dist.DistError:  # the store is gone too
            self._end(self.rank, f"(rank 0 is gone) {type(error).__name__}: {error}", 1)

    def _others(self) -> dict[str, Any]:
        """Why the connection to another rank broke: what that rank told, or that it fell silent."""
        if self._wait(lambda: self.store.check(["failed"])):
            return self._failure()
        ranks, notes = self._silent()
        dead = "; ".join(f"rank {r} ({notes[r][3]}), last seen in: {notes[r][2] or 'its start'}," for r in ranks)
        return self._claim(f"{dead or 'the connection to a rank'} ended without a word: killed, or out of memory", 1)

    @staticmethod
    def _wait(until: Callable[[], bool]) -> bool:
        """Wait some seconds for a thing to happen; did it?"""
        deadline = time.monotonic() + 3 * PERIOD
        while not (happened := until()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return happened

    def _end(self, rank: int, text: str, code: int) -> None:
        """Tell it once, on rank 0 if that still can, and end this process."""
        text = text if text.startswith("rank ") else f"rank {rank} failed: {text}"
        with self._lock:
            told = False
            with contextlib.suppress(dist.DistError):
                if self.rank == 0:
                    self.tell(text)
                    told = True
                    self.store.set("told", "")
                    self._wait(lambda: self.store.add("gone", 0) == self.world - 1)  # it may hold the store: goes last
                else:
                    told = rank != self.rank or self._wait(lambda: self.store.check(["told"]))
                    self.store.add("gone", 1)
            if not told:
                self.tell(text)
            if f"rank {self.rank} (" in text:  # it hangs: where?
                stack = sys._current_frames()[threading.main_thread().ident or 0]
                print(f"rank {self.rank} is at:\n{''.join(traceback.format_stack(stack))}", file=sys.stderr)
            for thread in threading.enumerate():  # a checkpoint that is being written is worth its seconds
                if thread not in (threading.main_thread(), self, threading.current_thread()) and not thread.daemon:
                    thread.join(20)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)  # no destructor of a process group may wait for ranks that are gone


def _of_others(error: BaseException) -> bool:
    """Does it only say that another rank went away?"""
    told = f"{type(error).__name__}: {error}".lower()
    known = ("gloo", "nccl", "connection reset", "closed by peer", "connection refused", "broken pipe")
    return isinstance(error, (dist.DistError, RuntimeError)) and any(word in told for word in known)


_watchdog: Watchdog | None = None


@contextlib.contextmanager
def watching(timeout: float, key: str, tell: Tell) -> Iterator[None]:
    """Watch over the ranks; an error inside ends them all."""
    global _watchdog
    _watchdog = Watchdog(key, timeout, tell)
    _watchdog.start()
    try:
        with together():
            yield
    finally:
        _watchdog.stop()
        _watchdog = None


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Over several ranks, an error inside ends this process, and then the others; it is told at once."""
    try:
        yield
    except Interrupted:
        raise  # all ranks have saved, and stop alike
    except BaseException as e:
        if _watchdog is not None:
            _watchdog.failed(e)
        raise
