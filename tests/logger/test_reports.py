"""What people and scripts read of a whole run: console, log.txt, metrics.jsonl, TensorBoard."""

import contextlib
import fcntl
import json
import math
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from tests.tiny import CONFIG, Tiny, tiny

__all__ = ["tiny"]
ROOT = Path(__file__).resolve().parent.parent.parent
SPEED = r"  [\d,]+ samples/s"
LEFT = r"  \d+:\d\d left"
TIME = r"time: \d+\.\d s(  (data|forward|backward|optimizer|logging|validation|checkpoints|other) \d+%){4,8}"


def four(value: float) -> str:
    return f"{value:.4f}"


def expected(tiny: Tiny, log_points: bool = True) -> list[str]:
    """The lines of a run of CONFIG as patterns, from its metrics.jsonl: six steps per epoch, a log point after four."""
    train, valid = tiny.points("train"), tiny.points("valid")
    assert tiny.steps("train") == [4, 6, 8, 12] and tiny.steps("valid") == [6, 12]  # noqa: PT018
    lines = []
    for epoch, (points, after) in enumerate([(train[:2], valid[0]), (train[2:], valid[1])], start=1):
        first, sizes = points[0], np.diff([6 * epoch - 6, *(point["step"] for point in points)])
        values = f"loss {four(first['loss'])}  accuracy {four(first['accuracy'])}  lr 0.1"
        if log_points:
            lines.append(rf"  step {first['step']:>2}/12  {values}{SPEED}{LEFT}")
        means = {name: np.average([point[name] for point in points], weights=sizes) for name in ("loss", "accuracy")}
        values = "  ".join(f"{name} {four(value)}" for name, value in means.items())
        values += f"  val_loss {four(after['loss'])}  val_accuracy {four(after['accuracy'])}"
        lines.append(rf"epoch {epoch}/2  step {after['step']:>2}  {values}{SPEED}" + (LEFT if epoch == 1 else ""))
    return [*lines, TIME]


def assert_lines(patterns: list[str], lines: list[str]) -> None:
    assert len(patterns) == len(lines), lines
    for pattern, line in zip(patterns, lines, strict=True):
        assert re.fullmatch(pattern, line), (pattern, line)


TABLE = [
    "  layer     type    output   parameters  FLOPs/sample",
    "  layers.0  Linear  [B, 16]       1,040         2.0 k",
    "  layers.1  ReLU    [B, 16]           0             0",
    "  layers.2  Linear  [B, 10]         170           320",
    "  all       MLP     [B, 10]       1,210         2.4 k",
]
ON = "on cpu: 1,400 samples for training, 100 for validation, 10 classes  6 steps per epoch, 12 in all"


def start(folder: str) -> list[str]:
    return ["MLP: 1,210 parameters", f"training in {folder}", ON, *TABLE]


def assert_end(lines: list[str], folder: Path) -> None:
    assert lines[0] == "finished at step 12"
    assert re.fullmatch(r"[\d,]+ samples/s in training  peak memory [\d,]+ MiB", lines[1])
    assert lines[2:] == [
        f"saved in {folder}/run",
        f"next: python test.py -r {folder}/run",
        f"      python -m logger.report {folder} --out report.html",
    ]


def test_console_without_a_terminal(tiny, capsys):
    tiny.train()
    lines = capsys.readouterr().out.splitlines()
    assert lines[:8] == start(f"{tiny.folder}/run")
    assert_lines(expected(tiny), lines[8:-5])
    assert_end(lines[-5:], tiny.folder)


def test_the_best_value_is_marked_and_the_last_one_given(tiny, capsys):
    tiny.train("trainer.monitor=min val_loss", "trainer.tensorboard=true", "trainer.epochs=3", "optimizer.args.lr=30")
    lines = capsys.readouterr().out.splitlines()
    losses = [point["loss"] for point in tiny.points("valid")]
    best = min(losses)
    marked = [f"val_loss {four(losses[0])} best" in line for line in lines if line.startswith("epoch 1/3")]
    assert marked == [True]
    assert sum(" best" in line for line in lines if line.startswith("epoch")) == sum(
        loss < min(losses[:i], default=math.inf) for i, loss in enumerate(losses)
    )
    step = 6 * (losses.index(best) + 1)
    assert f"best val_loss {best:.6g} at step {step}" in lines
    assert f"last val_loss {losses[-1]:.6g}  " in lines[-4]
    assert lines[-1] == f"      tensorboard --logdir {tiny.folder}  (open http://localhost:6006; Ctrl-C stops it)"


@pytest.mark.parametrize("verbosity", [0, 1])
def test_verbosity(tiny, capsys, verbosity):
    tiny.train(f"trainer.verbosity={verbosity}")
    lines = capsys.readouterr().out.splitlines()
    if verbosity == 0:
        assert lines == []
    else:
        assert_lines(expected(tiny, log_points=False), lines[8:-5])


def test_log_txt_has_what_the_console_leaves_out(tiny):
    tiny.train("trainer.verbosity=0")
    lines = tiny.log().splitlines()
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  "
    begin = start(f"{tiny.folder}/run")
    assert [line[21:] for line in lines[:3]] == begin[:3]
    assert all(re.match(stamp, line) for line in lines[:4])
    assert [lines[3][21:], *lines[4:8]] == TABLE  # one entry
    assert_lines([stamp + line for line in expected(tiny)], lines[8:-5])


def test_a_resume_adds_to_log_txt(tiny):
    tiny.train("trainer.epochs=1")
    before = tiny.log()
    tiny.train("trainer.epochs=2")
    assert tiny.log().startswith(before)
    assert "changed: trainer.epochs: 1 -> 2\n" in tiny.log()
    assert f"continuing in {tiny.folder}/run from step 6\n" in tiny.log()
    assert tiny.log().count(TABLE[0]) == 1  # not again at a resume


def test_metrics_jsonl(tiny):
    trainer = tiny.train("trainer.max_steps=9", "trainer.valid_steps=3", "metrics=[accuracy,top_k_acc]")
    lines = (tiny.folder / "run/metrics.jsonl").read_text().splitlines()
    points = [json.loads(line) for line in lines]
    assert [(p["step"], p["epoch"], p["split"]) for p in points] == [
        (3, 1, "valid"),
        (4, 1, "train"),
        (6, 1, "train"),
        (6, 1, "valid"),
        (8, 2, "train"),
        (9, 2, "train"),
        (9, 2, "valid"),
    ]
    assert all(list(p) == ["step", "epoch", "split", "loss", "accuracy", "top_k_acc", "lr"][: len(p)] for p in points)
    assert {len(p) for p in points if p["split"] == "train"} == {7}
    # the last validation, by hand: the first six batches of 25 samples of the held-out 100
    inputs, targets = (torch.cat(parts) for parts in zip(*trainer.valid_data_loader, strict=True))
    with torch.no_grad():
        output = trainer.model.eval()(inputs)
    loss = torch.nn.functional.cross_entropy(output.double(), targets).item()
    assert points[-1]["loss"] == pytest.approx(loss, rel=1e-6)
    assert points[-1]["accuracy"] == (output.argmax(1) == targets).double().mean().item()


def test_tensorboard(tiny):
    tiny.train("trainer.tensorboard=true", "trainer.monitor=max val_accuracy")

    def read(folder):
        events = EventAccumulator(str(tiny.folder / "run" / folder))
        events.Reload()
        return events

    names = {"train": ["loss", "accuracy", "lr"], "valid": ["loss", "accuracy"]}
    for split in names:
        events, points = read(split), tiny.points(split)
        more = ["samples_per_s"] if split == "train" else []
        assert sorted(events.Tags()["scalars"]) == sorted([*names[split], *more])
        for name in names[split]:
            scalars = events.Scalars(name)
            assert [s.step for s in scalars] == [point["step"] for point in points]
            assert [s.value for s in scalars] == [np.float32(point[name]) for point in points]
    assert all(s.value > 0 for s in read("train").Scalars("samples_per_s"))
    events = read("")
    (picture,) = events.Images("train/inputs")
    # 28 digits of 8 x 8, enlarged to 64 x 64 and with a line for the label, 8 per row
    assert (picture.step, picture.width, picture.height) == (0, 8 * 66 + 2, 4 * (64 + 14 + 2) + 2)
    assert {"result/val_loss", "result/best_val_accuracy", "result/best_step"} <= set(events.Tags()["scalars"])
    best = max(tiny.points("valid"), key=lambda point: point["accuracy"])
    assert events.Scalars("result/best_val_accuracy")[0].value == np.float32(best["accuracy"])


def test_without_tensorboard_there_is_no_event_file(tiny):
    tiny.train()
    assert sorted(path.name for path in (tiny.folder / "run").iterdir() if path.name[0] != ".") == [
        "checkpoints",
        "config.yaml",
        "log.txt",
        "metrics.jsonl",
    ]


# -- a terminal


def on_screen(output: str) -> list[str]:
    """The lines that a terminal shows in the end; \\r goes back to the start of the line."""
    lines = []
    for raw in output.replace("\r\n", "\n").split("\n"):
        line = ""
        for part in raw.split("\r"):
            line = part + line[len(part) :]
        lines.append(line.rstrip())
    return [line for line in lines if line]


def test_a_terminal_shows_epochs_and_no_leftovers_of_the_bar(tiny):
    (tiny.folder / "c.json").write_text(json.dumps(CONFIG))
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))  # rows, columns
    command = [sys.executable, str(ROOT / "train.py"), "-c", "c.json", "trainer.log_steps=2", "--run-id", "run"]
    env = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}  # else they count
    process = subprocess.Popen(command, cwd=tiny.folder, env=env, stdout=theirs, stderr=theirs, stdin=theirs)
    os.close(theirs)
    output = b""
    with contextlib.suppress(OSError):  # what Linux gives when the other end is closed; macOS gives nothing
        while some := os.read(ours, 65536):
            output += some
    os.close(ours)
    assert process.wait() == 0, output.decode()
    assert "epoch 1/2            0/6" in output.decode()
    lines = on_screen(output.decode())
    assert lines[:8] == start("saved/tiny/run")
    assert [line[:18] for line in lines[8:10]] == ["epoch 1/2  step  6", "epoch 2/2  step 12"]
    assert lines[10].startswith("time: ")
    assert not any("samples/s" in line for line in lines[:-4])
    assert "samples/s" in (tiny.folder / "saved/tiny/run/log.txt").read_text()
