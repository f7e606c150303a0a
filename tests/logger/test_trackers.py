"""Trackers and the report, each read back by its own reader after a run was killed and resumed twice.

TensorBoard, CSV and the report have each point once. A tracker only appends: a repeated step is there again, with equal
bits. Each step once is exactly metrics.jsonl.
"""

import csv
import json
import math
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from logger.report.runs import read
from tests.trainer.checkpoint.harness import House, at_step, config, die

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # those of the libraries
Points = dict[str, dict[int, set[float]]]  # SPLIT/NAME -> step -> the values that it has there


def expected(house: House) -> Points:
    found: Points = {}
    for line in house.metrics().splitlines():
        point = json.loads(line)
        for name, value in point.items():
            if name not in ("step", "epoch", "split"):
                found.setdefault(f"{point['split']}/{name}", {}).setdefault(point["step"], set()).add(value)
    return found


def records(path: Path) -> Iterator[bytes]:
    """The records of an offline W&B file: LevelDB's log format, blocks of 32 KiB, after a header of 7 bytes."""
    data = path.read_bytes()
    at, whole = 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        part = data[at + 7 : at + 7 + length]
        if kind == 0 or len(part) < length:  # what a kill has cut off
            return
        whole = (
            part if kind in (1, 2) else whole + part
        )  # 1: all of it, 2: the first part, 3: a middle one, 4: the last
        if kind in (1, 4):
            yield whole
        at += 7 + length


def of_wandb(house: House) -> tuple[Points, list[Any]]:
    from wandb.proto import wandb_internal_pb2

    found: Points = {}
    others = []
    for path in sorted(house.run.glob("wandb/offline-run-*/*.wandb")):
        for data in records(path):
            record = wandb_internal_pb2.Record.FromString(data)  # type: ignore[attr-defined]
            if record.WhichOneof("record_type") != "history":
                others.append(record)
                continue
            values = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            for key, value in values.items():
                if "/" in key and isinstance(value, float | int):
                    found.setdefault(key, {}).setdefault(values["step"], set()).add(value)
    return found, others


def of_trackio(project: str) -> Points:
    import trackio

    found: Points = {}
    for entry in trackio.SQLiteStorage.get_logs(project, "r"):
        for key, value in entry.items():
            if "/" in key and isinstance(value, float | int):
                found.setdefault(key, {}).setdefault(entry["step"], set()).add(value)
    return found


def of_mlflow(house: House) -> tuple[Points, Any]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{house.folder}/mlflow.db")
    experiment = client.get_experiment_by_name("t")
    assert experiment is not None
    [run] = client.search_runs([experiment.experiment_id])
    found: Points = {}
    for key in run.data.metrics:
        for metric in client.get_metric_history(run.info.run_id, key):
            found.setdefault(key, {}).setdefault(metric.step, set()).add(metric.value)
    return found, run


def without(points: Points, *prefixes: str) -> Points:
    return {key: steps for key, steps in points.items() if not key.startswith(prefixes)}


@pytest.fixture(scope="module")
def trackio_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """trackio reads the name of its folder once, when it is imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACKIO_DIR", str(tmp_path_factory.mktemp("trackio")))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield Path(os.environ["TRACKIO_DIR"])


@pytest.fixture
def killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trackio_dir: Path) -> Callable[[Any], House]:
    """Trains with one writer; killed twice, the second time before the checkpoint after the first resume."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/run/mlflow.db")

    def train(logger: Any) -> House:
        house = House(tmp_path / "run", config(logger=logger, trainer__monitor="min val_loss", trainer__save_steps=4))
        for step in (7, 14):
            house.train(patch=at_step(step, die), code=137)
        result = house.train()
        assert "error" not in result.text, result.text
        return house

    return train


def test_tensorboard_csv_and_the_report_have_each_point_once(killed):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

    house = killed(["tensorboard", "csv"])
    points = [json.loads(line) for line in house.metrics().splitlines()]
    own = ("step", "epoch", "split")
    exact = sorted((p["split"], p["step"], name, p[name]) for p in points for name in p if name not in own)
    assert len(exact) == len({entry[:3] for entry in exact})
    assert {step for _, step, *_ in exact} == set(range(2, 19, 2))

    in_events = []
    for split in ("train", "valid"):
        events = EventAccumulator(str(house.run / split)).Reload()
        in_events += [
            (split, point.step, tag, point.value) for tag in events.Tags()["scalars"] for point in events.Scalars(tag)
        ]
    # no rerun repeats the speed, so metrics.jsonl has none
    in_events = sorted(entry for entry in in_events if entry[2] != "samples_per_s")
    assert in_events == [(*entry[:3], struct.unpack("f", struct.pack("f", entry[3]))[0]) for entry in exact]

    with (house.run / "metrics.csv").open() as file:
        rows = [(row["split"], int(row["step"]), row["name"], float(row["value"])) for row in csv.DictReader(file)]
    assert sorted(row for row in rows if row[2] != "samples_per_s") == exact

    run = read(house.run)
    for prefix, split in (("", "train"), ("val_", "valid")):
        curve = run.curve(f"{prefix}loss", per_epoch=False)
        assert curve == [(step, value) for at, step, name, value in exact if (at, name) == (split, "loss")]
    assert run.finished


def test_wandb(killed):
    pytest.importorskip("wandb", reason="the extra wandb")
    house = killed([{"type": "wandb", "args": {"project": "p", "tags": ["small"]}}])
    found, others = of_wandb(house)
    assert found == expected(house)
    runs = [record.run for record in others if record.WhichOneof("record_type") == "run"]
    assert {run.run_id for run in runs} == {(house.run / ".tracker-id").read_text()}
    assert len(list(house.run.glob("wandb/offline-run-*"))) == 3
    assert (runs[0].project, runs[0].display_name, list(runs[0].tags)) == ("p", "r", ["small"])
    configs = {item.key: json.loads(item.value_json) for item in runs[0].config.update}
    assert configs["optimizer"] == {"type": "AdamW", "args": {"lr": 0.01}}
    summaries = [record.summary for record in others if record.WhichOneof("record_type") == "summary"]
    final = {item.key or item.nested_key[0]: item.value_json for s in summaries for item in s.update}
    assert float(final["best_val_loss"]) == min(
        p["loss"] for p in map(json.loads, house.metrics().splitlines()) if p["split"] == "valid"
    )


def test_trackio(killed):
    pytest.importorskip("trackio", reason="the extra trackio")
    import trackio

    house = killed([{"type": "trackio", "args": {"project": "killed"}}])
    found = of_trackio("killed")
    assert without(found, "result/") == expected(house)
    [settings] = trackio.SQLiteStorage.get_all_run_configs("killed").values()  # one run
    assert settings["optimizer"] == {"type": "AdamW", "args": {"lr": 0.01}}
    best = min(min(values) for values in found["valid/loss"].values())
    assert list(found["result/best_val_loss"].values()) == [{best}]


def test_mlflow(killed):
    pytest.importorskip("mlflow", reason="the extra mlflow")
    house = killed(["mlflow"])
    found, run = of_mlflow(house)
    assert without(found, "result/") == expected(house)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "r"
    assert run.data.params["optimizer.args.lr"] == "0.01"
    assert run.data.tags["groundwork.id"] == (house.run / ".tracker-id").read_text()


def test_points_that_a_tracker_lost_are_sent_again(killed, trackio_dir):
    """trackio's thread had not written them when all was killed."""
    pytest.importorskip("trackio", reason="the extra trackio")
    import sqlite3

    house = killed([{"type": "trackio", "args": {"project": "lost"}}])
    db = sqlite3.connect(trackio_dir / "lost.db")
    with db:
        db.execute("DELETE FROM metrics WHERE step < 9")
    db.close()
    assert without(of_trackio("lost"), "result/") != expected(house)
    house.train("trainer.epochs=4")
    assert without(of_trackio("lost"), "result/") == expected(house)


def test_pictures_texts_and_histograms(tmp_path, monkeypatch, trackio_dir):
    """Each tracker takes what callbacks show; without errors, and in its own store."""
    import numpy as np
    import torch

    from logger.writer import RunInfo

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)  # MLflow's artifacts
    (tmp_path / "t/r").mkdir(parents=True)
    for library, name in (("wandb", "Wandb"), ("trackio", "Trackio"), ("mlflow", "MLflow")):
        pytest.importorskip(library, reason=f"the extra {library}")
        module = __import__(f"logger.{library}", fromlist=[name])
        writer = getattr(module, name)()
        if library == "mlflow":
            writer.uri = f"sqlite:///{tmp_path}/mlflow.db"
        writer.open(RunInfo(tmp_path / "t/r", {"name": "t", "metrics": []}, "python train.py"))
        for channels in (1, 3):
            writer.image("valid/a", torch.rand(channels, 8, 8), channels)
        writer.text("valid/b", "a < b\nc", 1)
        writer.histogram("weights/c", np.arange(10.0), 1)
        writer.scalars(1, 1, "valid", {"nan": math.nan, "accuracy@5, %": 0.5})
        writer.close()
    assert len(list(tmp_path.glob("t/r/wandb/offline-*/files/media/**/*.png"))) == 2
    assert len(list(tmp_path.glob("t/r/wandb/offline-*/files/media/**/*.html"))) == 1
    assert len(list(trackio_dir.glob("media/t/**/*.png"))) == 2
    assert len(list(tmp_path.glob("mlruns/**/valid/a/*.png"))) == 2
    assert [path.read_text() for path in tmp_path.glob("mlruns/**/valid/b/*.txt")] == ["a < b\nc"]
