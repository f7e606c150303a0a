"""The progress bar on a terminal of a given width."""

import io

import pytest

from logger import progress_bar
from logger.progress_bar import ProgressBar


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True

    def line(self) -> str:
        return self.getvalue().split("\r")[-1].rstrip()


@pytest.fixture
def terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(progress_bar, "on_terminal", lambda: True)
    monkeypatch.setattr("sys.stderr", terminal)
    return terminal


def shown(bar: ProgressBar, columns: int = 80) -> str:
    assert bar._bar is not None
    bar._bar.ncols, bar._bar.dynamic_ncols = columns, False
    return str(bar._bar).rstrip()


def test_the_bar_shows_steps_and_the_first_values_that_fit(terminal):
    bar = ProgressBar(True)
    bar.start("epoch 2/5", 20, done=4, delay=0)
    bar.values(["0:09 left", "902 samples/s", "loss 0.0705"])
    bar.step()
    for columns, line in [
        (80, "epoch 2/5 ██▌        5/20, 0:09 left, 902 samples/s, loss 0.0705"),
        (50, "epoch 2/5 ██▌        5/20, 0:09 left, 902 samples/"),
    ]:
        assert shown(bar, columns) == line
    bar.stop()
    assert terminal.line() == ""  # it leaves nothing behind


def test_values_stay_from_bar_to_bar(terminal):
    bar = ProgressBar(True)
    bar.values(["loss 0.1000"])
    bar.start("validation", 3, delay=0)
    assert shown(bar) == "validation            0/3, loss 0.1000"
    bar.stop()


def test_without_a_terminal_there_is_no_bar(capsys):
    bar = ProgressBar(True)
    bar.start("epoch 1/2", 3, delay=0)
    bar.step()
    bar.values(["loss 1"])
    bar.stop()
    assert bar._bar is None
    assert capsys.readouterr() == ("", "")
