"""Standard output that cannot be written: closed by the shell or by `| head -1`, or on a full disk."""

import io
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from logger import console

ROOT = Path(__file__).resolve().parents[2]
PRINTS = "from utils.exit_codes import exit_with; exit_with(lambda: print('text'))"
FULL = Path("/dev/full")


def end(stdout: int, code: str = PRINTS) -> tuple[int, str]:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=stdout, stderr=subprocess.PIPE, text=True)
    return done.returncode, done.stderr


@pytest.mark.skipif(os.name == "nt", reason="POSIX reports a closed pipe otherwise")
def test_a_closed_pipe() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert end(writer) == (141, "")
    finally:
        os.close(writer)


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
def test_a_full_disk() -> None:
    with FULL.open("w") as full:
        said = "stopped: cannot write to standard output: No space left on device\n"
        assert end(full.fileno()) == (3, said)


def test_closed_streams() -> None:
    closed = "import sys; sys.stdout = sys.stderr = None; "
    assert end(subprocess.DEVNULL, closed + PRINTS) == (0, "")


class Lost(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


def test_a_run_continues_without_its_console(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with console.started(2):
        monkeypatch.setattr(sys, "stdout", Lost())
        console.log_to(tmp_path)
        console.log.log(logging.INFO, "one")
    assert "cannot print more (Broken pipe); the run continues" in capsys.readouterr().err
    assert (tmp_path / "log.txt").read_text().endswith("one\n")
