"""find.py: a learning rate that trains, and the largest batch that fits."""

import copy
import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import find
import model.model
from tests.tiny import CONFIG, Tiny, tiny
from trainer.engine.commands.range_tests import Rate, batch_sizes, steepest
from utils.errors import UsageError

__all__ = ["tiny"]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.json").write_text(json.dumps({**copy.deepcopy(CONFIG), "lr_scheduler": "WarmupCosineLR"}))
    return "c.json"


def rows(path: Path) -> list[dict[str, float]]:
    with open(path, newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


@pytest.mark.slow
def test_the_learning_rate_it_finds_trains(tiny: Tiny, config: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="draws the plot")
    find.main(["lr", "-c", config, "--low", "1e-4", "--high", "1e4", "--steps", "60"])
    text = capsys.readouterr().out
    lr = float(text.split("--lr ")[1].split(":")[0])
    found = rows(Path("saved/tiny/find_lr.csv"))
    assert found[0]["lr"] == pytest.approx(1e-4)
    assert found[1]["lr"] / found[0]["lr"] == pytest.approx(1e8 ** (1 / 59))
    assert len(found) < 60
    assert "on it diverges" in text
    assert Path("saved/tiny/find_lr.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in Path("saved/tiny").iterdir()} == {"find_lr.csv", "find_lr.png"}
    losses = {}
    for factor in (1e-3, 1, 1e3):
        tiny.train(f"optimizer.args.lr={lr * factor}", run=str(factor))
        losses[factor] = tiny.points("valid", str(factor))[-1]["loss"]
    assert losses[1] < losses[1e-3] - 0.3
    assert losses[1] < losses[1e3]

    find.main(["lr", "-c", config, "--low", "1e-9", "--high", "1e-8", "--steps", "10", "--out", "other"])
    assert "the loss never falls" in (out := capsys.readouterr().out) or "--lr" in out
    assert len(rows(Path("other.csv"))) == 10


def test_the_first_losses_are_those_of_the_run(tiny: Tiny, config: str) -> None:
    """At a rate of nearly zero the model stays as it is, so the losses are those of the first batches."""
    find.main(["lr", "-c", config, "--low", "1e-12", "--high", "2e-12", "--steps", "12"])
    tiny.train("optimizer.args.lr=0.0", "trainer.log_steps=1")
    losses = [point["loss"] for point in tiny.points("train")]
    assert [row["loss"] for row in rows(Path("saved/tiny/find_lr.csv"))] == pytest.approx(losses, rel=1e-6)


def test_steepest() -> None:
    rates = [10 ** (i / 10 - 4) for i in range(41)]
    losses = [1 / (1 + math.exp(2 * (math.log10(lr) + 2) * 3)) for lr in rates]  # falls fastest at 0.01
    found = [Rate(lr, loss, loss) for lr, loss in zip(rates, losses, strict=True)]
    assert steepest(found) == pytest.approx(0.01, rel=0.3)
    assert steepest([Rate(lr, 1.0, 1 + lr) for lr in rates]) is None
    assert steepest([]) is None


class Small(nn.Module):
    """There is memory for 100 samples."""

    seen: list[int] = []

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        Small.seen.append(len(x))
        if len(x) > 100:
            raise torch.OutOfMemoryError("out of memory")
        return self.head(x.flatten(1))


@pytest.mark.slow
def test_the_largest_batch_that_fits(
    config: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(model.model, "Small", Small, raising=False)
    find.main(["batch_size", "-c", config, "arch=Small", "lr_scheduler=null"])
    text = capsys.readouterr().out
    assert "the largest batch that fits is 100; from " in text
    sizes = [int(row["batch_size"]) for row in rows(Path("saved/tiny/find_batch_size.csv"))]
    assert sizes == [3, 6, 12, 24, 48, 72, 84, 96, 99, 100] or sizes[-1] == 100
    assert max(Small.seen) == 192
    find.main(["batch_size", "-c", config, "arch=Small", "--most", "64"])
    assert "64, the largest that was tried, fits" in capsys.readouterr().out
    monkeypatch.setattr(Small, "forward", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("none")))
    with pytest.raises(UsageError, match="not even one sample fits"):
        find.main(["batch_size", "-c", config, "arch=Small"])


def test_memory_runs_out_in_the_middle_of_an_update(tiny: Tiny) -> None:
    """The next size needs a whole state: torch's Adam would fail on half of one."""
    built: Any = tiny.build("optimizer={type: AdamW, args: {fused: false}}", "trainer.clip_grad_norm=1.0")
    step, sizes = built.optimizer.step, []

    def full(*args: Any, **kwargs: Any) -> Any:
        sizes.append(len(built.optimizer.state))
        if len(sizes) == 1:
            parameter = built.optimizer.param_groups[0]["params"][0]
            built.optimizer.state[parameter] = {"step": torch.zeros(()), "exp_avg": torch.zeros_like(parameter)}
            raise torch.OutOfMemoryError("out of memory")
        return step(*args, **kwargs)

    built.optimizer.step = full
    found, limit = batch_sizes(built, 40)
    assert limit is not None
    assert found[-1].batch_size == limit - 1
    assert sizes[:2] == [0, 0]


def test_nothing_is_trained(tiny: Tiny) -> None:
    built: Any = tiny.build("optimizer={type: AdamW}")
    before = copy.deepcopy(built.model.state_dict())
    batch_sizes(built, 40)
    assert all(torch.equal(before[name], value) for name, value in built.model.state_dict().items())


def test_what_it_does_not_accept(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        find.main(["lr", "-c", config, "--low", "1", "--high", "0.1"])
    assert "give 0 < low < high" in capsys.readouterr().err
    Path("file").touch()
    with pytest.raises(UsageError, match="give another place"):
        find.main(["lr", "-c", config, "--steps", "10", "--out", "file/inside"])
    with pytest.raises(UsageError, match=r"optimizer\.args\.lr: it is 0 for all parameters"):
        find.main(["lr", "-c", config, "--steps", "10", "optimizer.args.lr=0.0"])
