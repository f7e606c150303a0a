"""Processes that read batches ahead. They ignore signals, and exit with the main process, even if it is killed."""

import atexit
import contextlib
import functools
import itertools
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, Dataset

from data_loader.engine import shared_memory
from data_loader.engine.batch import Batch
from data_loader.engine.changes import Snapshot, log, shown
from data_loader.engine.failures import FAILURES, describe, not_moved, not_sent, not_started
from data_loader.engine.reader import Reader
from utils.errors import SampleError, UsageError, dead_worker
from utils.process.launch import end_with_parent
from utils.signals import SIGNALS

PATIENCE = 3.0  # seconds that a worker has to end by itself
# (which pass over the data, epoch, indices), and the occurrences where samples are drawn with repeats
Request = tuple[Any, ...]

# Those that may be running. At exit Python would end their workers by SIGTERM, which they ignore, and wait for them.
_running: "weakref.WeakSet[Generator[Batch, None, None]]" = weakref.WeakSet()


class Loader(Protocol):
    """The source of the batches: a BaseDataLoader."""

    num_workers: int
    prefetch: int
    device: torch.device

    def reader(self) -> Reader: ...

    def to_run(self, batch: Batch, epoch: int) -> Batch: ...


def load(owner: Loader, requests: Iterator[Request]) -> Generator[Batch, None, None]:
    """The batch of each request, in order; close it to stop the workers.

    Where the owner or its data set is changed between two batches, the next one is read with the change, as it is
    without workers. Raises SampleError where a batch cannot be read or sent, and where a worker died.
    """
    options: dict[str, Any] = {
        "batch_size": None,  # a request is a whole batch
        "collate_fn": _identity,
        "num_workers": owner.num_workers,
        "prefetch_factor": owner.prefetch,
        "pin_memory": owner.device.type == "cuda",
        "worker_init_fn": functools.partial(_start_worker, os.getpid()),
        "generator": torch.Generator(),  # otherwise iter() draws from the global one
    }
    running = _load(owner, requests, options)
    _running.add(running)
    return running


def _load(owner: Loader, requests: Iterator[Request], options: dict[str, Any]) -> Generator[Batch, None, None]:
    ahead: deque[Request] = deque()  # those that workers have
    reported: set[str] = set()

    def noting(requests: Iterator[Request]) -> Iterator[Request]:
        for request in requests:
            ahead.append(request)
            yield request

    while True:
        snapshot = Snapshot(owner)
        requests = itertools.chain(list(ahead), requests)
        ahead.clear()
        loader = DataLoader(_InWorker(owner.reader()), sampler=noting(requests), **options)  # may be endless
        with _started(loader) as batches:
            for batch in batches:
                this_pass, epoch, *_ = ahead.popleft()
                yield owner.to_run(batch, epoch)
                changes = snapshot.changes(contents=bool(ahead) and ahead[0][0] != this_pass)
                if changes:
                    break
            else:
                return
        for change in changes:
            if str(change) not in reported:
                reported.add(str(change))
                how = f" ({shown(change.before)} -> {shown(change.now)})" if change.key is not None else ""
                log.info(f"data_loader: {change} was changed{how}: the workers were started again with it")


@contextlib.contextmanager
def _started(loader: "DataLoader[Any]") -> Iterator[Iterator[Batch]]:
    """The batches of a loader; its workers end with this, whatever happens."""
    before = set(multiprocessing.active_children())
    try:
        iterator = iter(loader)
    except Exception as e:
        _kill([p for p in multiprocessing.active_children() if p not in before and p.daemon])
        raise not_started(e) from e
    processes = [p for p in multiprocessing.active_children() if p not in before and p.daemon]
    try:
        yield _batches(iterator, processes)
    finally:
        _stop(iterator, processes)


def _batches(iterator: Iterator[Any], processes: Sequence[BaseProcess]) -> Iterator[Batch]:
    """What torch's iterator gives, with its errors explained."""
    while True:
        try:
            batch = next(iterator)
            if isinstance(batch, Sent):
                batch = batch.batch()
        except StopIteration:
            return
        except (RuntimeError, OSError, EOFError, pickle.PickleError) as e:
            raise _explained(e, processes) from e
        if isinstance(batch, BaseException):
            raise batch
        yield batch


def _explained(error: Exception, processes: Sequence[BaseProcess]) -> SampleError:
    if "in DataLoader worker process" in str(error):  # all later ones are returned
        return not_started(error)
    cause = error
    if not isinstance(error, RuntimeError):  # the pipe to a dead worker broke; torch's signal handler names it soon
        try:
            time.sleep(1)
        except RuntimeError as late:
            cause = late
    if dead := dead_worker(cause, [p.exitcode for p in processes]):
        return dead
    return SampleError(f"no batch came from the data loader's workers: {describe(error)}")


def _stop(iterator: Any, processes: Sequence[BaseProcess]) -> None:
    """End the workers now. A traceback may keep the iterator, and with it the workers, until Python waits for them."""
    impatient = threading.Timer(PATIENCE, _signal_all, [processes])
    impatient.daemon = True
    with contextlib.suppress(RuntimeError):  # Python is shutting down and starts no more threads
        impatient.start()
    try:
        iterator.__del__()  # torch's own shutdown, which may be called twice
    except RuntimeError:
        pass  # torch's signal handler, about workers that ended just now
    finally:
        impatient.cancel()
        _kill(processes)
        shared_memory.close(process.pid for process in processes)


def _signal_all(processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        process.kill()


def _kill(processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        if process.is_alive():
            process.kill()
            process.join()


@atexit.register
def _close_all() -> None:
    for running in list(_running):
        running.close()


def _identity(batch: Any) -> Any:
    return batch


# -- in a worker ------------------------------------------------------------------------------------------------------


class _InWorker(Dataset[Any]):
    """Reads for a worker. Errors are returned: torch would replace the message of one that is raised by a traceback."""

    def __init__(self, reader: Reader) -> None:
        self.reader, self.sender = reader, shared_memory.Sender()
        self.error: SampleError | None = None

    def __getitem__(self, request: Request) -> "Sent | SampleError | UsageError":
        if self.error is not None:
            return self.error
        _, epoch, indices, *occurrences = request
        try:
            batch = self.reader.read(epoch, indices, *occurrences)
        except (SampleError, UsageError) as e:
            return e
        try:
            return Sent(batch, self.sender)
        except Exception as e:
            return not_sent(indices, batch.data, e)

    def __getstate__(self) -> bytes:
        return bytes(ForkingPickler.dumps(self.reader))

    def __setstate__(self, state: bytes) -> None:
        self.error, self.sender = None, shared_memory.Sender()
        try:
            self.reader = pickle.loads(state)
        except FAILURES as e:
            self.error = not_started(e)


class Sent:
    """A batch on its way from a worker, pickled here: where torch's queue fails to, the batch is just lost."""

    def __init__(self, batch: Batch, sender: shared_memory.Sender) -> None:
        self.indices, self.pickled = batch.indices, sender.dumps(batch)

    def batch(self) -> Batch | SampleError:
        """Raises OSError or EOFError if the worker that sent it is gone: its tensors came by a connection to it."""
        try:
            return pickle.loads(self.pickled)
        except (OSError, EOFError):
            raise
        except Exception as e:
            if dead_worker(e):
                raise
            return not_sent(self.indices, self.pickled, e)

    def pin_memory(self) -> Batch | BaseException:
        """torch calls it in its pinning thread."""
        batch = self.batch()
        if isinstance(batch, SampleError):
            return batch
        try:
            return batch.pin_memory()
        except Exception as e:
            return not_moved("moving to page-locked (pinned) memory failed for", batch, e)


def _start_worker(parent: int, _: int) -> None:
    """Leave signals, also those to the whole process group, to the main process, and never outlive it."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    end_with_parent()
    if sys.platform == "linux" and multiprocessing.get_start_method() == "fork" and os.getppid() != parent:
        os._exit(1)  # the main process died before this one could watch it
