"""The progress bar on a terminal of a given width."""

import io

import pytest

from logger import console, progress_bar
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
    left = ["0:09 left"]
    bar.start("epoch 2/5", 20, done=4, delay=0, live=lambda: [*left, "902 samples/s"])
    assert shown(bar) == "epoch 2/5 ██         4/20, 0:09 left, 902 samples/s"  # nothing is known of the loss yet
    bar.values(["loss 0.0705", "accuracy 0.9800", "lr 0.001"])
    bar.step()
    for columns, line in [
        (110, "epoch 2/5 ██▌        5/20, loss 0.0705, 0:09 left, 902 samples/s, accuracy 0.9800, lr 0.001"),
        (80, "epoch 2/5 ██▌        5/20, loss 0.0705, 0:09 left, 902 samples/s"),
        (65, "epoch 2/5 ██▌        5/20, loss 0.0705, 0:09 left, 902 samples/s"),
        (64, "epoch 2/5 ██▌        5/20, loss 0.0705, 0:09 left"),
        (20, "epoch 2/5 ██▌"),
    ]:
        assert shown(bar, columns).startswith(line) if columns == 20 else shown(bar, columns) == line
    left[0] = "0:08 left"
    assert "0:08 left" in shown(bar)
    bar.stop()
    assert terminal.line() == ""  # it leaves nothing behind


def test_values_stay_from_bar_to_bar(terminal):
    bar = ProgressBar(True)
    bar.values(["loss 0.1000"])
    bar.start("validation", 3, delay=0)
    assert shown(bar) == "validation            0/3, loss 0.1000"
    bar.stop()


class Cell(io.StringIO):
    """What a notebook has in place of sys.stdout."""


Cell.__module__ = "ipykernel.iostream"


def test_in_a_notebook_the_bar_is_one_line_and_few_messages(monkeypatch):
    cell = Cell()
    monkeypatch.setattr("sys.stdout", cell)
    with console.started(2):
        bar = ProgressBar(True)
        bar.start("epoch 1/2", 1000, delay=0)
        bar.values(["loss 0.5"])
        for _ in range(1000):
            bar.step()
            console.log.debug("a log point, which the bar shows")
        console.log.info("epoch 1/2  loss 0.4")
        bar.stop()
    text = cell.getvalue()
    assert text.count("\n") == 1
    assert text.count("\r") < 20
    assert "epoch 1/2            0/1000" in text
    assert "\repoch 1/2  loss 0.4\n" in text
    assert "log point" not in text
    assert not cell.isatty()


def test_without_a_terminal_there_is_no_bar(capsys):
    bar = ProgressBar(True)
    bar.start("epoch 1/2", 3, delay=0)
    bar.step()
    bar.values(["loss 1"])
    bar.stop()
    assert bar._bar is None
    assert capsys.readouterr() == ("", "")
