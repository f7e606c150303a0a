"""Processes that read batches ahead. They leave signals to the main process, and end with it whatever ends it."""

import atexit
import functools
import multiprocessing
import os
import signal
import sys
import time
import weakref
from collections.abc import Callable, Generator, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from utils.errors import SampleError, killed_worker
from utils.launch import end_with_parent

# Those that may be alive. At exit Python would end their workers by SIGTERM, which these ignore, and wait for them.
_loading: "weakref.WeakSet[Generator[Any, None, None]]" = weakref.WeakSet()


def load(
    reader: Dataset[Any],
    requests: Iterator[Any],
    finish: Callable[[Any], Any],
    workers: int,
    prefetch: int,
    pin_memory: bool,
) -> Generator[Any, None, None]:
    """finish(reader[request]) for each request, in their order; close it to stop the workers.

    Raises a SampleError that a worker returned, and Stopped where one was killed.
    """
    loader = DataLoader(
        reader,
        sampler=requests,  # may have no end
        batch_size=None,  # a request is a whole batch
        collate_fn=_as_it_is,
        num_workers=workers,
        prefetch_factor=prefetch,
        pin_memory=pin_memory,
        worker_init_fn=functools.partial(_start_worker, os.getpid()),
        generator=torch.Generator(),  # else iter() draws from the global one
    )
    loading = _load(loader, finish)
    _loading.add(loading)
    return loading


def _load(loader: Any, finish: Callable[[Any], Any]) -> Generator[Any, None, None]:
    try:
        for batch in loader:
            if isinstance(batch, SampleError):
                raise batch
            yield finish(batch)
    except (RuntimeError, ConnectionError, EOFError) as e:
        why = e
        if not isinstance(e, RuntimeError):  # to a worker that is gone: torch says so a moment later, by a signal
            try:
                time.sleep(1)
            except RuntimeError as late:
                why = late
        if stopped := killed_worker(why):
            raise stopped from e
        raise


@atexit.register
def _close() -> None:
    for loading in list(_loading):
        loading.close()


def _as_it_is(batch: Any) -> Any:
    return batch


def _start_worker(parent: int, _: int) -> None:
    """A worker leaves signals, also those to the whole process group, to the main process, and never outlives it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    end_with_parent()
    if sys.platform == "linux" and multiprocessing.get_start_method() == "fork" and os.getppid() != parent:
        os._exit(1)  # it was killed before it could be followed
