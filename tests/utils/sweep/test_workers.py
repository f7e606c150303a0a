"""What the processes of a sweep do when it cannot go on: each saves, as after Ctrl-C."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from utils.errors import Stopped, UsageError
from utils.sweep.folder import Sweep, Trial
from utils.sweep.workers import Source, Workers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="trials are forked")


def trains(folder: Path, number: int, *_: Any) -> None:
    """Saves, slowly, once it is asked to end."""

    def save(*_: Any) -> None:
        time.sleep(0.3)
        (folder / f"saved-{number}").touch()
        os._exit(143)

    signal.signal(signal.SIGTERM, save)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    (folder / f"runs-{number}").touch()
    time.sleep(60)


class Fails(Source):
    """A source that works no more, once a trial runs."""

    def __init__(self, folder: Path, error: Exception, prunes: bool) -> None:
        self.folder, self.error, self.prunes = folder, error, prunes

    def more(self) -> Trial | None:
        if not self.prunes:
            self._fail()
        return None

    def should_prune(self, trial: Trial, points: list[tuple[int, float]]) -> bool:
        self._fail()
        return False

    def _fail(self) -> None:
        while not (self.folder / "runs-0").exists():
            time.sleep(0.01)
        raise self.error


@pytest.mark.parametrize("error", [Stopped("the database is down"), UsageError("001.json cannot be read")])
@pytest.mark.parametrize("prunes", [False, True])
def test_what_runs_can_save(error: Exception, prunes: bool, tmp_path: Path) -> None:
    sweep = Sweep.create(tmp_path / "s", {"objectives": ["min val_loss"]}, "name: t\n")
    sweep.write(Trial(0, {"seed": 1}))
    (sweep.folder / "000").mkdir()
    (sweep.folder / "000/metrics.jsonl").write_text('{"split": "valid", "step": 1, "epoch": 1, "loss": 2.0}\n')
    source = Fails(sweep.folder, error, prunes)
    with pytest.raises(type(error), match=str(error)):
        Workers(sweep, source, trains, [None, None], 1, "fork", print).run()
    assert (sweep.folder / "saved-0").exists()


def test_a_trial_that_cannot_be_read_at_its_end(tmp_path: Path) -> None:
    """While another one runs."""

    def breaks_or_trains(folder: Path, number: int, *_: Any) -> None:
        if number == 0:
            trains(folder, number)
        while not (folder / "runs-0").exists():
            time.sleep(0.01)
        (folder / "trials/001.json").write_text("{")

    sweep = Sweep.create(tmp_path / "s", {"objectives": ["min val_loss"]}, "name: t\n")
    sweep.add_points({"seed": [1, 2]})
    with pytest.raises(UsageError, match=r"001\.json cannot be read"):
        Workers(sweep, Source(), breaks_or_trains, [None, None], 1, "fork", print).run()
    assert (sweep.folder / "saved-0").exists()
