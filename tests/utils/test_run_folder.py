"""A run's folder: found, made, locked; where there is no fcntl too."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import pytest

from utils import run_folder
from utils.errors import UsageError
from utils.files import write_atomic
from utils.run_folder import BEST, CHECKPOINTS, Run, find_checkpoint, find_run, new_run, newest_run

ROOT = Path(__file__).resolve().parents[2]
OTHER = """
import sys
from pathlib import Path
from utils.errors import UsageError
from utils.run_folder import Run
try:
    Run(Path(sys.argv[1])).lock()
except UsageError as e:
    sys.exit(str(e))
"""


def other_process(folder: Path) -> str:
    """What another process says that locks this folder; "" if it can."""
    return subprocess.run(
        [sys.executable, "-c", OTHER, folder], cwd=ROOT, capture_output=True, text=True
    ).stderr.strip()


def test_the_lock(tmp_path: Path) -> None:
    run = Run(tmp_path / "r")
    run.open("name: r\n")
    assert (tmp_path / "r/config.yaml").read_text() == "name: r\n"
    assert "is writing to this run; stop it first, or start another run" in other_process(run.folder)
    run.close()
    assert other_process(run.folder) == ""


def test_without_fcntl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows: nothing imports it at the top, and msvcrt locks a byte behind the holder's name."""
    locked: list[tuple[int, int, int]] = []

    def locking(fd: int, mode: int, count: int) -> None:
        if locked:
            raise OSError("locked")
        locked.append((fd, mode, count))

    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(locking=locking, LK_NBLCK=2))
    run = Run(tmp_path)
    run.open("name: r\n")
    assert [entry[1:] for entry in locked] == [(2, 1)]
    with pytest.raises(UsageError, match=r"process \d+ on .* is writing to this run"):
        Run(tmp_path).lock()
    run.close()


@pytest.mark.parametrize("module", ["utils.run_folder", "utils.signals", "utils.files", "utils.cli", "utils.config"])
def test_nothing_posix_only_is_imported(module: str) -> None:
    code = f"import sys; sys.modules.update(fcntl=None, resource=None, pwd=None, grp=None); import {module}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_new_runs(tmp_path: Path) -> None:
    first, second = new_run(str(tmp_path), "n", None), new_run(str(tmp_path), "n", None)
    second.folder = first.folder  # in the same second
    assert not first.exists
    for run in (first, second):
        run.open("")
        run.close()
    assert [first.exists, second.exists] == [True, True]
    assert second.folder.name == f"{first.folder.name}-2"
    named = new_run(str(tmp_path), "n", "me")
    assert named.folder == tmp_path / "n/me"
    named.open("")
    named.close()
    with pytest.raises(UsageError, match=r"--run-id me: .* exists already; continue it with -r"):
        new_run(str(tmp_path), "n", "me")
    for name in ("../x", "", "a" * 300, "é" * 200):
        with pytest.raises(UsageError, match=r"expected a folder name without / and .*, of at most 255 bytes"):
            new_run(str(tmp_path), "n", name)
    newest = newest_run(str(tmp_path), "n")
    assert newest is not None
    assert newest.folder == named.folder
    assert newest_run(str(tmp_path), "none") is None


def test_runs_that_start_in_the_same_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has a folder of its own, also where all chose their name before any made it."""
    monkeypatch.setattr(run_folder.time, "strftime", lambda form, *_: "2030-01-01_00-00-00")
    runs = [new_run(str(tmp_path), "n", None) for _ in range(3)]
    for run in runs:
        assert not run.exists
        run.open("name: n")
        assert run.exists
    names = [path.name for path in sorted((tmp_path / "n").iterdir())]
    assert names == ["2030-01-01_00-00-00", "2030-01-01_00-00-00-2", "2030-01-01_00-00-00-3"]
    for run in runs:
        run.close()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / CHECKPOINTS).mkdir()
    (tmp_path / "config.yaml").touch()
    return tmp_path


def test_find_checkpoint(run: Path) -> None:
    with pytest.raises(UsageError, match="no checkpoint yet"):
        find_checkpoint(str(run))
    newest = run / CHECKPOINTS / "checkpoint-step2.pth"
    newest.touch()
    assert find_checkpoint(str(run)) == newest
    best = run / CHECKPOINTS / BEST
    best.touch()
    assert find_checkpoint(str(run)) == best
    assert find_checkpoint(str(newest)) == newest


def test_a_config_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("name: a")
    with pytest.raises(UsageError, match="a config, expected a run's folder"):
        find_checkpoint(str(tmp_path / "x.yaml"))


def test_find_run(run: Path) -> None:
    checkpoint = run / CHECKPOINTS / "checkpoint-step2.pth"
    checkpoint.touch()
    for path in (run, run / CHECKPOINTS):
        assert find_run(str(path)).folder == run
    assert find_run(str(checkpoint)).checkpoint == checkpoint
    for wrong in (run.parent / "nothing", run.parent, run.parent.parent):
        with pytest.raises(UsageError, match=rf"neither a run nor a checkpoint; .* runs there: .*{run.name}"):
            find_run(str(wrong))


def test_write_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    write_atomic(file, b"old")

    def full(stream: IO[Any] | int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            write_atomic(file, b"new")
    assert file.read_bytes() == b"old"
    write_atomic(file, b"new")
    assert file.read_bytes() == b"new"
