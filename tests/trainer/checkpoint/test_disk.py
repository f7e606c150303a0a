"""A disk that is full, read-only or gone: reported at once, and nothing that is on it is harmed."""

import contextlib
import errno
import io
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from logger import append_only_file as appended
from tests.trainer.checkpoint.harness import STEPS, House, at_step, config, die, points, same_end, together, unequal
from trainer.engine.base_trainer import BaseTrainer


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path) -> Path:
    """A file that takes what is free."""
    with contextlib.suppress(OSError), open(folder / "big", "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    return folder / "big"


def on(disk: Path, **changes: Any) -> House:
    """A house whose saved/ is on that disk."""
    house = House(disk.parent / "house", config(trainer__tensorboard=True, **changes))
    (disk / "saved").mkdir()
    (house.folder / "saved").symlink_to(disk / "saved")
    return house


def no_temporaries(house: House) -> bool:
    return not list(house.run.rglob(".tmp-*"))


def test_disk_full_for_a_while(small_disk: Path, tmp_path: Path) -> None:
    """Told at once, whole again once there is space: no point lost."""
    house, whole = on(small_disk), House(tmp_path / "whole", config(trainer__tensorboard=True))
    whole.train()
    begin = at_step(7, lambda _: fill(small_disk))
    reported = at_step(9, lambda _: None)  # waits for the writer
    end = at_step(13, lambda _: (small_disk / "big").unlink())
    result = house.train(patch=together(begin, reported, end))
    line = (
        "error: could not save a checkpoint in saved/t/r/checkpoints: No space left on device; 0.0 MB are needed, "
        "0.0 MB are free; on the disk is checkpoint-step6.pth"
    )
    assert result.lines.index(line) < next(i for i, x in enumerate(result.lines) if x.startswith("epoch 2/3"))
    same_end(house, whole, but=("logs",))
    assert no_temporaries(house)
    assert points(house) == points(whole)


def test_disk_full_at_the_end(small_disk: Path, tmp_path: Path) -> None:
    """Exit 3; once there is space, `-r` goes on from the last whole checkpoint to the same end."""
    house, whole = on(small_disk), House(tmp_path / "whole", config(trainer__tensorboard=True))
    whole.train()
    result = house.train(patch=at_step(9, lambda _: fill(small_disk)), code=3)
    assert result.lines[-1] == (
        "stopped: the last checkpoint could not be saved: nothing newer than checkpoint-step8.pth is on the disk. Free "
        "some space, or fix what the error above names, and continue from there: python train.py -r saved/t/r"
    )
    assert house.steps == [8, 6]
    assert no_temporaries(house)
    (small_disk / "big").unlink()
    assert house.command("-r", "saved/t/r").code == 0
    same_end(house, whole, but=("logs",))
    assert points(house) == points(whole)


def test_only_the_values_could_not_be_written(house: House, tmp_path: Path) -> None:
    """They are in the last checkpoint, and a resume of the finished run writes them."""
    whole = House(tmp_path / "whole", config())
    whole.train()

    def lock_up(trainer: BaseTrainer) -> None:
        (house.run / "metrics.jsonl").rename(house.folder / "kept")
        (house.run / "metrics.jsonl").mkdir()

    result = house.train(patch=at_step(9, lock_up), code=3)
    assert (
        "stopped: metrics.jsonl in saved/t/r: the last lines could not be written; the checkpoint holds them. Free "
        in (result.text)
    )
    (house.run / "metrics.jsonl").rmdir()
    (house.folder / "kept").rename(house.run / "metrics.jsonl")
    result = house.train()
    assert "saved/t/r: wrote what did not fit on the disk before: metrics.jsonl" in result.lines
    assert house.metrics() == whole.metrics()


def limit(size: int) -> Any:
    """Let no file grow beyond so many bytes: as on a full disk, without a mount."""
    return lambda _: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def test_torn_lines_are_completed(tmp_path: Path) -> None:
    """metrics.jsonl stops in the middle of a line; what is missing is kept, and written once that works."""
    spec = config(trainer__log_steps=1, trainer__verbosity=0, trainer__save_steps=6)
    house, whole = House(tmp_path / "torn", spec), House(tmp_path / "whole", spec)
    whole.train()
    result = house.train(patch=together(at_step(3, limit(1000)), at_step(15, limit(resource.RLIM_INFINITY))))
    assert (
        "error: saved/t/r/metrics.jsonl: File too large; new lines are kept in memory and written later" in result.lines
    )
    log = (house.run / "log.txt").read_text().splitlines()
    assert any(line.endswith("saved/t/r/metrics.jsonl: writing works again; no line is missing") for line in log)
    assert [line.split("  ")[1] for line in log if "  epoch " in line and "/3" in line.split("  ")[1]] == [
        "epoch 1/3",
        "epoch 2/3",
        "epoch 3/3",
    ]
    same_end(house, whole)


def test_torn_lines_are_completed_after_a_kill(house: House, tmp_path: Path) -> None:
    """While a line is torn a checkpoint is saved; it knows what is missing."""
    whole = House(tmp_path / "whole", config())
    whole.train()

    def tear(_: BaseTrainer) -> None:
        full: list[bool] = []

        class Full(io.FileIO):
            def write(self, data: Any) -> int:
                if full:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                full.append(True)
                return super().write(bytes(data[:15]))

        def opened(path: Path, *args: Any, **kwargs: Any) -> Any:
            return Full(path, "ab") if path.name == "metrics.jsonl" else open(path, *args, **kwargs)

        vars(appended)["open"] = opened

    house.train(patch=together(at_step(7, tear), at_step(13, die)), code=137)
    assert house.metrics().endswith(b'\n{"step": 8, "ep')
    assert house.state()["unwritten"]["metrics.jsonl"].startswith(b"och")
    house.train()
    same_end(house, whole)


def test_file_size_limit(house: House) -> None:
    result = house.train(patch=at_step(0, limit(4096)), code=3)
    assert "could not save a checkpoint in saved/t/r/checkpoints: File too large; " in result.text
    assert "nothing newer than the start is on the disk" in result.lines[-1]
    assert not [p for p in house.run.rglob("*") if p.suffix == ".pth" or p.name.startswith(".tmp")]


def test_read_only(small_disk: Path) -> None:
    house = on(small_disk)

    def lock(_: object) -> None:
        for options in ("bind", "remount,bind,ro"):
            subprocess.run(["mount", "-o", options, small_disk, small_disk], check=True)

    try:
        result = house.train(patch=at_step(9, lock), code=3)
        assert "could not save a checkpoint in saved/t/r/checkpoints: Read-only file system; " in result.text
        assert house.steps == [8, 6]
        again = house.command("-r", "saved/t/r")
        fresh = house.command("-c", "c.yaml")
    finally:
        subprocess.run(["umount", "-l", small_disk], check=True)
    reported = "Read-only file system; free space or fix permissions there, or choose another folder with "
    reported += "trainer.save_dir=FOLDER"
    assert (again.code, again.lines[-1]) == (2, f"error: cannot write to saved/t/r: {reported}")
    assert (fresh.code, fresh.lines[-1].endswith(reported)) == (2, True)


def test_folder_deleted(house: House, tmp_path: Path) -> None:
    """Told at the next save; at the end it is made again, and the last checkpoint is in it."""
    whole = House(tmp_path / "whole", config())
    whole.train()
    result = house.train(patch=at_step(9, lambda _: shutil.rmtree(house.run)))
    assert "error: could not save a checkpoint in saved/t/r/checkpoints: the run's folder was deleted; " in result.text
    assert "on the disk is none" in result.text
    assert "error: saved/t/r was deleted while the run went on: made again for its last checkpoint" in result.lines
    assert not list(unequal(house.state()["model"], whole.state()["model"]))
    assert house.train().lines[-1].startswith("nothing to do: ")


def test_folder_deleted_for_good(house: House) -> None:
    def delete(_: BaseTrainer) -> None:
        shutil.rmtree(house.folder / "saved")
        (house.folder / "saved").write_text("in the way")

    assert "nothing newer than the start is on the disk" in house.train(patch=at_step(9, delete), code=3).lines[-1]


def test_little_space_is_reported_at_the_start(small_disk: Path) -> None:
    house = on(small_disk, arch__args__widths=[64, 128])
    text = house.train(code=3).text
    assert "warning: saved/t/r/checkpoints: 1.0 MB are free, and two checkpoints need about 1.8 MB; free some" in text


def test_best_that_could_not_be_written_is_written_later(small_disk: Path, tmp_path: Path) -> None:
    changes = {"trainer__monitor": "min val_loss", "optimizer__args__lr": 0.03, "trainer__valid_steps": 3}
    house = on(small_disk, **changes)
    whole = House(tmp_path / "whole", config(**changes, trainer__tensorboard=True))
    whole.train()
    best = whole.state("model_best.pth")["step"]
    assert best == 2 * STEPS
    begin, end = (
        at_step(best - 1, lambda _: fill(small_disk)),
        at_step(best + 1, lambda _: (small_disk / "big").unlink()),
    )
    house.train(patch=together(begin, end))
    assert not list(unequal(house.state("model_best.pth")["model"], whole.state("model_best.pth")["model"]))
