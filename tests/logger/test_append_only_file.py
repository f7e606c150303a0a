"""A file on a disk that fails and recovers: nothing is lost, nothing appears twice."""

import errno
import logging

from logger import append_only_file
from logger.append_only_file import AppendOnlyFile


def test_what_a_full_disk_does_not_take_is_written_later(tmp_path, monkeypatch, caplog):
    class Disk:
        """Takes `room` bytes."""

        room = 3

        def __init__(self, path, *_, **__):
            self.file = open(path, "ab", buffering=0)  # noqa: SIM115

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def fileno(self):
            return self.file.fileno()

        def write(self, data):
            part = bytes(data[: Disk.room])
            if not part:
                raise OSError(errno.ENOSPC, "no space")
            Disk.room -= len(part)
            return self.file.write(part)

    caplog.set_level(logging.INFO)
    monkeypatch.setattr(append_only_file, "open", Disk, raising=False)
    file = AppendOnlyFile(tmp_path / "a.txt")
    file.write(b"abcde")
    file.write(b"fgh")
    assert (tmp_path / "a.txt").read_bytes() == b"abc"
    assert (bytes(file.unwritten), file.size) == (b"defgh", 3)
    assert str(file.error) == "[Errno 28] no space"
    Disk.room = 1000
    file.write(b"ij")
    assert (tmp_path / "a.txt").read_bytes() == b"abcdefghij"
    assert (bytes(file.unwritten), file.size) == (b"", 10)
    assert file.error is None
    assert [record.getMessage() for record in caplog.records] == [
        f"{file.path}: No space left on device; new lines are kept in memory and written later",
        f"{file.path}: writing works again; no line is missing",
    ]


def test_a_folder_that_comes_back_is_written_to_again(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    file = AppendOnlyFile(folder / "a.txt")
    file.write(b"a")
    folder.rename(tmp_path / "away")
    file.write(b"b")
    assert not folder.exists()
    assert file.size == 1
    (tmp_path / "away").rename(folder)
    file.flush()
    assert (folder / "a.txt").read_bytes() == b"ab"
