"""StopSignal: the first signal sets a flag, and `restore` puts back the handlers that were there before."""

import signal
import threading
from collections.abc import Iterator

import pytest

from utils import signals
from utils.signals import SIGNALS, StopSignal


@pytest.fixture(autouse=True)
def handlers() -> Iterator[list[object]]:
    before = [signal.getsignal(number) for number in SIGNALS]
    yield list(before)
    for number, handler in zip(SIGNALS, before, strict=True):
        signal.signal(number, handler)


def now() -> list[object]:
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_first_signal_sets_a_flag(number: int, code: int) -> None:
    stop = StopSignal()
    stop.install()
    assert stop.number == 0
    signal.raise_signal(number)
    assert (stop.number, stop.exit_code) == (number, code)
    signal.raise_signal(number)  # the same Ctrl-C, from torchrun
    assert stop.number == number


def test_the_end_of_the_time_budget() -> None:
    assert StopSignal(1000.0).poll() == StopSignal().poll() == 0
    stop = StopSignal(0.0)
    stop.install()
    assert (stop.poll(), stop.exit_code) == (signals.TIME_UP, 4)
    signal.raise_signal(signal.SIGTERM)  # the scheduler's, while it saves
    assert (stop.poll(), stop.exit_code) == (signal.SIGTERM, 143)
    stop.restore()


def test_handlers_are_restored(handlers: list[object]) -> None:
    """Also those of another run in this process, and after a second install."""
    outer, inner = StopSignal(), StopSignal()
    outer.install()
    during = now()
    inner.install()
    inner.install()
    assert now() != during
    inner.restore()
    assert now() == during
    outer.restore()
    assert now() == handlers


def test_only_the_main_thread_installs(handlers: list[object]) -> None:
    stop = StopSignal()
    errors: list[BaseException] = []

    def install() -> None:
        try:
            stop.install()
            stop.restore()
        except BaseException as e:
            errors.append(e)

    thread = threading.Thread(target=install)
    thread.start()
    thread.join()
    assert not errors
    assert now() == handlers


def test_without_sigusr1(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows."""
    monkeypatch.setattr(signals, "SIGUSR1", None)
    monkeypatch.setattr(signals, "SIGNALS", [signal.SIGTERM, signal.SIGINT])
    stop = StopSignal()
    stop.install()
    signal.raise_signal(signal.SIGTERM)
    assert stop.number == signal.SIGTERM
    stop.restore()
