"""The files in a folder: links are followed, but not in a circle, and what systems hide is left out."""

from pathlib import Path

import pytest

from data_loader.engine.paths import files_below, place
from utils.errors import UsageError


def test_files_below(tmp_path: Path) -> None:
    (tmp_path / "a/deep").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for name in ("a/2.WAV", "a/deep/1.wav", "a/._2.wav", "a/note.txt", "elsewhere/3.wav"):
        (tmp_path / name).touch()
    (tmp_path / "a/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "a/deep/circle").symlink_to(tmp_path / "a")
    (tmp_path / "a/itself").symlink_to(tmp_path / "a/itself")
    found = [Path(path).relative_to(tmp_path).as_posix() for path in files_below(tmp_path / "a", [".wav"])]
    assert found == ["a/2.WAV", "a/deep/1.wav", "a/link/3.wav"]


def test_home_and_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("DATA", "/data")
    assert (place("~/a.csv"), place("$DATA/a")) == (Path("/home/me/a.csv"), Path("/data/a"))
    with pytest.raises(UsageError, match="the environment variable NOWHERE is not set"):
        place("$NOWHERE/a")
