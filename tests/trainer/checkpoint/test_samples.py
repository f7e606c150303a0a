"""Samples that cannot be read, workers that die; and that it is the same for any number of workers."""

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.trainer.checkpoint.harness import Drawing, House, at_step, before, config, die, same_end, together, unequal
from trainer.engine.step import Step

BAD = 7


def drawing(**changes: Any) -> dict[str, Any]:
    loader = {"type": "DrawingDataLoader", "args": {"batch_size": 30, "validation_split": 0.1}}
    return config(data_loader=loader, **changes)


def unreadable(*indices: int) -> Callable[[], None]:
    """A patch: the data set raises for these samples, where it is read one by one."""

    def patch() -> None:
        read = Drawing.__getitem__

        def raising(self: Drawing, index: int) -> Any:
            if index in indices:
                raise ValueError("no such label")
            return read(self, index)

        Drawing.__getitem__ = raising  # type: ignore[method-assign]

    return patch


@pytest.mark.parametrize("at_once", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_same_for_any_number_of_workers(at_once: bool, tmp_path: Path) -> None:
    """Also in a data set that draws from torch, NumPy and Python for each sample."""
    houses = [House(tmp_path / str(n), drawing(data_loader__args__at_once=at_once)) for n in (0, 1, 2, 4)]
    for house in houses:
        house.train(f"data_loader.args.num_workers={house.folder.name}")
        same_end(house, houses[0], but=("config",))


def test_killed_among_draws(tmp_path: Path) -> None:
    house, whole = House(tmp_path / "a", drawing()), House(tmp_path / "b", drawing())
    whole.train()
    house.train("data_loader.args.num_workers=2", patch=at_step(9, die), code=137)
    house.train()
    same_end(house, whole, but=("config",))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("at_once", [False, True])
def test_bad_sample_is_reported(at_once: bool, workers: int, tmp_path: Path) -> None:
    house = House(tmp_path, drawing(data_loader__args__at_once=at_once, data_loader__args__num_workers=workers))
    result = house.train(patch=unreadable(BAD), code=3)
    place = re.sub(r"\d+", "LINE", result.lines[-2].split("(at ")[1])
    assert place == ("harness.py:LINE)" if at_once else "test_samples.py:LINE)")
    assert result.lines[-2].startswith("stopped: sample 7 (file-7) could not be read: ValueError: no such label (at ")
    assert result.lines[-1] == "Repair or remove it, or set trainer.skip_bad_samples=N to skip up to N such samples"
    assert "sample 7 (file-7)" in (house.run / "log.txt").read_text()


@pytest.mark.parametrize("at_once", [False, True])
def test_bad_samples_are_skipped(at_once: bool, tmp_path: Path) -> None:
    """Also in validation, with workers or without, and over a kill; each is named once."""
    spec = drawing(data_loader__args__at_once=at_once, trainer__skip_bad_samples=20)
    house, whole = House(tmp_path / "a", spec), House(tmp_path / "b", spec)
    bad = unreadable(*range(0, 200, 15))
    text = whole.train(patch=bad).text
    reported = [line for line in text.splitlines() if "skipped (" in line]
    assert len(reported) == len(set(reported)) == 14
    assert reported[0].startswith("warning: skipped (1 of 20 allowed): sample ")
    assert "could not be read: ValueError: no such label (at " in reported[0]
    assert sorted(whole.state()["skipped"]) == list(range(0, 200, 15))
    house.train("data_loader.args.num_workers=2", patch=lambda: (bad(), at_step(9, die)()), code=137)
    house.train("data_loader.args.num_workers=2", patch=bad)
    same_end(house, whole, but=("config",))


def test_one_bad_sample_too_many(tmp_path: Path) -> None:
    result = House(tmp_path, drawing(trainer__skip_bad_samples=1)).train(patch=unreadable(3, BAD), code=3)
    assert result.lines[-1] == (
        "stopped: more than trainer.skip_bad_samples = 1 samples could not be read: [3, 7]; repair or remove them, or "
        "allow more"
    )


def test_others_are_not_disturbed(tmp_path: Path) -> None:
    """When a micro-batch falls away whole, the other one of its step draws what it would have drawn."""
    spec = drawing(trainer__accumulate=2, trainer__skip_bad_samples=4, trainer__epochs=1, trainer__limit_batches=None)
    spec["data_loader"]["args"] = {"batch_size": 2}
    drawn: list[list[int]] = []
    for name, bad in (("a", ()), ("b", (7, 23, 40, 61))):
        house = House(tmp_path / name, spec)

        def note(trainer: Any, batch: Any, file: Path = house.folder / "draws") -> None:
            with open(file, "a") as out:
                print(torch.randint(2**62, ()).item(), file=out)

        noting = before(Step, "unpack", note, when=lambda *args: True)
        house.train(patch=together(noting, unreadable(*bad)))
        drawn.append([int(line) for line in (house.folder / "draws").read_text().split()])
    gone = [draw for draw in drawn[0] if draw not in drawn[1]]
    assert len(gone) == 4
    assert [draw for draw in drawn[0] if draw not in gone] == drawn[1]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_step_of_bad_samples_only(precision: str, tmp_path: Path) -> None:
    spec = drawing(trainer__skip_bad_samples=3, trainer__epochs=1, trainer__precision=precision)
    spec["data_loader"]["args"]["batch_size"] = 1
    house = House(tmp_path, spec)
    house.train("trainer.limit_batches=null", patch=unreadable(BAD))
    assert house.state()["step"] == 200 - 20


def test_killed_worker_is_reported(tmp_path: Path) -> None:
    def patch() -> None:
        read = Drawing.__getitem__
        main = os.getpid()

        def dying(self: Drawing, index: int) -> Any:
            if index == BAD and os.getpid() != main:
                os.kill(os.getpid(), signal.SIGKILL)
            return read(self, index)

        Drawing.__getitem__ = dying  # type: ignore[method-assign]

    result = House(tmp_path, drawing(data_loader__args__num_workers=2)).train(patch=patch, code=3)
    last = result.lines[-1]
    assert last.startswith("stopped: a data loader worker was killed by the system (DataLoader worker (pid")
    assert last.endswith(
        "most often the machine ran out of memory (RAM or /dev/shm): lower data_loader.args.num_workers or batch_size"
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_corrupt_image_is_reported_with_its_path(workers: int, tmp_path: Path) -> None:
    dice = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "images/train" / name).mkdir(parents=True)
        for i in range(8):
            pixels = dice.integers(0, 255, (24, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"images/train/{name}/{i}.png")
    broken = tmp_path / "images/train/dog/3.png"
    broken.write_bytes(broken.read_bytes()[:600])
    loader = {
        "type": "ImageFolderDataLoader",
        "args": {"data_dir": str(tmp_path / "images"), "batch_size": 4, "size": 16, "num_workers": workers},
    }
    arch = {"type": "ConvNet", "args": {"in_channels": 3, "num_classes": 2, "widths": [4], "depth": 1}}
    house = House(tmp_path / "house", config(data_loader=loader, arch=arch, trainer__limit_batches=None))
    last = house.train(code=3).lines[-2]
    assert last.startswith(f"stopped: sample 11 ({broken}) could not be read: OSError: ")
    assert house.train("trainer.skip_bad_samples=1").code == 0


def test_nothing_is_lost_of_a_validation_with_a_bad_sample(tmp_path: Path) -> None:
    """Its mean is over those that could be read."""
    spec = drawing(trainer__skip_bad_samples=1, trainer__limit_batches=None, trainer__epochs=1)
    clean, bad = House(tmp_path / "a", spec), House(tmp_path / "b", spec)
    clean.train()
    from data_loader.engine.sampler import Permutation
    from data_loader.engine.splits import SPLIT_KEY

    held_out = Permutation(200, SPLIT_KEY)(np.arange(20))
    bad.train(patch=unreadable(int(held_out[3])))
    assert not list(unequal(clean.state()["model"], bad.state()["model"]))
    assert clean.metrics() != bad.metrics()
    assert bad.state()["skipped"] == [int(held_out[3])]
