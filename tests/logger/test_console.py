"""The console: handlers that come and go with a run, lines folded and numbers shortened."""

import contextlib
import io
import logging
import sys

import pytest

from logger import NAME, console
from logger.console import log


@pytest.fixture(autouse=True)
def restored():
    """The logger is one per process; leave it as it was."""
    handlers, level, propagate = list(log.handlers), log.level, log.propagate
    yield
    log.handlers[:], log.propagate = handlers, propagate
    log.setLevel(level)


def test_a_started_console_restores_what_was_there():
    handler = logging.NullHandler()
    log.handlers[:] = [handler]
    log.setLevel(logging.ERROR)
    log.propagate = True
    with contextlib.suppress(ZeroDivisionError), console.started(1):
        assert handler not in log.handlers
        assert (log.level, log.propagate) == (logging.DEBUG, False)
        raise ZeroDivisionError
    assert log.handlers == [handler]
    assert (log.level, log.propagate) == (logging.ERROR, True)


def test_two_runs_in_one_process_do_not_disturb_each_other(tmp_path, capsys):
    for name in ("outer", "inner"):
        (tmp_path / name).mkdir()
    with console.started(1):
        console.log_to(tmp_path / "outer")
        log.info("one")
        with console.started(0):
            log.info("before the folder")
            console.log_to(tmp_path / "inner")
            log.info("two")
        log.info("three")
    log.info("nobody listens")
    assert capsys.readouterr().out.splitlines() == ["one", "three"]
    assert lines(tmp_path / "outer") == ["one", "three"]
    assert lines(tmp_path / "inner") == ["before the folder", "two"]


def lines(folder):
    return [line.split("  ", 1)[1] for line in (folder / "log.txt").read_text().splitlines()]


def test_setup_twice_prints_each_line_once(capsys):
    console.setup(1)
    console.setup(1)
    log.info("once")
    assert capsys.readouterr().out == "once\n"


@pytest.mark.parametrize(
    "verbosity, main, shown", [(0, True, "wc"), (1, True, "iwc"), (2, True, "diwc"), (2, False, "c")]
)
def test_levels(verbosity, main, shown, capsys):
    console.setup(verbosity, main)
    log.debug("d")
    log.info("i")
    log.warning("w")
    log.error("c")
    captured = capsys.readouterr()
    assert "".join(line[-1] for line in (captured.out + captured.err).splitlines()) == shown
    assert captured.err.startswith("warning: w\nerror: c" if main else "error: c")


def test_the_logger_is_named_once():
    assert log is logging.getLogger(NAME)


def test_a_letter_that_the_console_lacks_ends_no_run(monkeypatch):
    """The code page of a Windows console, or a file with LANG=C."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    with console.started(1):
        log.info("class \uace0")
    assert out.buffer.getvalue() == b"class \\uace0\n"


def test_fold():
    line = "epoch 1/6  step 19  loss 0.3591  accuracy 0.9083"
    assert console.fold(line, 48) == line
    assert console.fold(line, 47) == "epoch 1/6  step 19  loss 0.3591\n    accuracy 0.9083"
    assert console.fold(line, 25) == "epoch 1/6  step 19\n    loss 0.3591\n    accuracy 0.9083"
    assert console.fold("abcd  efgh", 2) == "abcd\n    efgh"  # narrower than the indentation
    command = "next: python test.py -r saved/a, callbacks='[Mistakes, Predictions]'"
    assert console.fold(command, 40) == command
    assert console.fold("  a sentence without a gap in it", 10) == "  a sentence without a gap in it"
    assert (
        console.fold("next: python test.py -r saved/long  (more)", 20)
        == "next: python test.py -r saved/long\n    (more)"
    )
    assert console.fold("on cpu: 1,200 samples, 300 for validation  9 steps", 30) == (
        "on cpu: 1,200 samples,\n    300 for validation\n    9 steps"
    )


def test_numbers_are_short():
    values = {"loss": 0.12345, "accuracy": 1.0, "tiny": 1.2345e-5, "huge": 123456.0, "zero": 0.0, "lr": 0.00123456}
    assert console.as_text(values | {"nan": float("nan")}) == [
        "loss 0.1235",
        "accuracy 1.0000",
        "tiny 1.23e-05",
        "huge 1.23e+05",
        "zero 0.0000",
        "lr 0.00123",
        "nan nan",
    ]
