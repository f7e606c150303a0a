"""predict.py: the order and the values of rows, ensembles, jobs that are killed, several processes, bad files."""

import csv
import runpy
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import predict as predict_script
from tests.conftest import ROOT
from tests.tiny import Tiny, tiny
from tests.trainer.checkpoint.harness import Child, alive, before
from tests.trainer.parallel.ranks import on_ranks
from trainer import load_model
from trainer.inference import predict
from trainer.inference.journal import Journal
from utils.errors import DataError, Stopped, UsageError

__all__ = ["tiny"]

N = 40  # scans
BATCH = "data_loader.args.batch_size=9"


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Test digits as image files, whose names are not in the order of the data."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for i, image in enumerate(digits()[0]):
        Image.fromarray((image / 16 * 255).round().astype(np.uint8)).save(folder / f"{(7 * i) % N:02d}.png")
    return folder


def digits() -> tuple[np.ndarray, np.ndarray]:
    with np.load(ROOT / "data_loader/digits/digits.npz") as file:
        return file["images"][1500 : 1500 + N].astype(np.float64), file["labels"][1500 : 1500 + N]


def by_hand(run: Path) -> torch.Tensor:
    """The probabilities [N, 10] of the scans, in the order of their names."""
    images = torch.from_numpy(digits()[0])[:, None] / 16
    order = np.argsort([(7 * i) % N for i in range(N)])
    with torch.no_grad():
        return load_model(run)(((images - 0.305) / 0.375).float()[order]).double().softmax(dim=1)


def rows(*argv: object, out: Path) -> list[dict[str, str]]:
    predict_script.main([*map(str, argv), "--out", str(out)])
    with open(out, newline="") as file:
        return list(csv.DictReader(file))


def test_each_file_in_its_order(tiny: Tiny, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.train()
    found = rows("-r", tiny.folder / "run", "--data", scans, "--prob", BATCH, out=tmp_path / "out.csv")
    expected = by_hand(tiny.folder / "run")
    assert [row["id"] for row in found] == [f"{i:02d}.png" for i in range(N)]
    assert [row["label"] for row in found] == [str(i) for i in expected.argmax(dim=1).tolist()]
    written = torch.tensor([[float(row[f"prob_{i}"]) for i in range(10)] for row in found], dtype=torch.float64)
    torch.testing.assert_close(written, expected, atol=1e-6, rtol=0)
    assert "its outputs are taken for logits (loss: cross_entropy)" in capsys.readouterr().out
    given = [scans / name for name in ("05.png", "02.png")]
    backwards = rows("-r", tiny.folder / "run", "--data", *given, out=tmp_path / "out.csv")
    assert [row["id"] for row in backwards] == [str(path) for path in given]
    assert [row["label"] for row in backwards] == [found[5]["label"], found[2]["label"]]


def test_columns(tiny: Tiny, scans: Path, tmp_path: Path) -> None:
    tiny.train()
    (tmp_path / "list.csv").write_text("scan,writer\nscans/03.png,a\nscans/01.png,b\n")
    wanted = "ImageId=scan,writer,Label=label,index,sure=prob,7"
    found = rows("-r", tiny.folder / "run", "--data", tmp_path / "list.csv", "--columns", wanted, out=tmp_path / "o")
    expected = by_hand(tiny.folder / "run")[[3, 1]]
    assert list(found[0]) == ["ImageId", "writer", "Label", "index", "sure", "7"]
    assert [(row["ImageId"], row["writer"]) for row in found] == [("scans/03.png", "a"), ("scans/01.png", "b")]
    assert [float(row["sure"]) for row in found] == pytest.approx(expected.amax(dim=1).tolist(), abs=1e-6)
    assert [float(row["7"]) for row in found] == pytest.approx(expected[:, 7].tolist(), abs=1e-6)
    with pytest.raises(
        UsageError, match=r"--columns: unknown column 'lable' \(did you mean 'label'\?\); there are scan"
    ):
        rows("-r", tiny.folder / "run", "--data", tmp_path / "list.csv", "--columns", "lable", out=tmp_path / "o")


def test_workers_and_a_killed_job_change_nothing(tiny: Tiny, scans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.train()
    line: list[object] = ["-r", tiny.folder / "run", "--data", scans, "--prob", BATCH]
    rows(*line, out=tiny.folder / "whole.csv")
    rows(*line, "data_loader.args.num_workers=2", out=tiny.folder / "workers.csv")
    whole = (tiny.folder / "whole.csv").read_bytes()
    assert (tiny.folder / "workers.csv").read_bytes() == whole

    add, added = Journal.add, list[int]()

    def dies(self: Journal, *args: Any) -> None:
        if len(added) == 2:
            with open(self.path, "ab") as file:
                file.write(b'{"rows": [["18.pn')  # cut off in the middle of a write
            raise KeyboardInterrupt
        added.append(1)
        add(self, *args)

    monkeypatch.setattr(Journal, "add", dies)
    with pytest.raises(KeyboardInterrupt):
        rows(*line, out=tiny.folder / "killed.csv")
    assert not (tiny.folder / "killed.csv").exists()

    def counted(self: Journal, *args: Any) -> None:
        added.append(1)
        add(self, *args)

    monkeypatch.setattr(Journal, "add", counted)
    rows(*line, out=tiny.folder / "killed.csv")
    assert (tiny.folder / "killed.csv").read_bytes() == whole
    assert len(added) == 5  # of 5 batches, none was computed again
    assert not (tiny.folder / "killed.csv.part").exists()


def test_another_job_starts_again(tiny: Tiny, scans: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.train()
    out = tiny.folder / "out.csv"
    (tiny.folder / "out.csv.part").write_text('{"header": ["id"], "job": 1}\n{"rows": [["x"]], "bad": []}\n')
    assert len(rows("-r", tiny.folder / "run", "--data", scans, out=out)) == N
    assert "out.csv.part is of another job: starting again" in capsys.readouterr().out


def test_a_killed_job_is_not_continued_with_other_data(
    tiny: Tiny, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other files of the same names, or other keys, are another job."""
    tiny.train()
    other = tmp_path / "other"
    other.mkdir()
    files = sorted(path.name for path in scans.iterdir())
    for name, taken in zip(files, reversed(files), strict=True):
        shutil.copy(scans / taken, other / name)
    line: list[object] = ["-r", tiny.folder / "run", BATCH, "--prob", "--data"]
    rows(*line, other, out=tmp_path / "whole.csv")
    add, out, added = Journal.add, tmp_path / "out.csv", list[int]()

    def dies(self: Journal, *args: Any) -> None:
        if len(added) == 2:
            raise KeyboardInterrupt
        added.append(1)
        add(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "add", dies)
        with pytest.raises(KeyboardInterrupt):
            rows(*line, scans, out=out)
    rows(*line, other, out=out)
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_a_killed_job_over_an_array_that_changed(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its samples have numbers for names, which tell nothing of what is in the file."""
    images, labels = digits()
    np.save(tmp_path / "x.npy", images.astype(np.float32).reshape(N, 64))
    np.save(tmp_path / "y.npy", labels)
    files = f"inputs: {tmp_path}/x.npy, targets: {tmp_path}/y.npy, batch_size: 9"
    tiny.train(f"data_loader={{type: ArrayDataLoader, args: {{{files}}}}}")
    line: list[object] = ["-r", tiny.folder / "run", "--prob", "--data", tmp_path / "x.npy"]
    add, out = Journal.add, tmp_path / "out.csv"

    def dies(self: Journal, *args: Any) -> None:
        add(self, *args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "add", dies)
        with pytest.raises(KeyboardInterrupt):
            rows(*line, out=out)
    np.save(tmp_path / "x.npy", images[::-1].astype(np.float32).reshape(N, 64))
    assert rows(*line, out=out) == rows(*line, out=tmp_path / "whole.csv")


def on_a_rank(argv: list[str]) -> None:
    runpy.run_path(str(ROOT / "predict.py"))["main"](argv)


@pytest.mark.slow
def test_several_processes_write_each_row_once(tiny: Tiny, scans: Path) -> None:
    tiny.train()
    for world in (1, 2, 3):
        line = [
            "-r",
            str(tiny.folder / "run"),
            "--data",
            str(scans),
            "--prob",
            BATCH,
            "--out",
            f"{tiny.folder}/{world}",
        ]
        assert on_ranks(world, on_a_rank, line) == [None] * world
    one, two, three = ((tiny.folder / str(world)).read_bytes() for world in (1, 2, 3))
    assert one == two == three
    assert one.count(b"\n") == N + 1


@pytest.mark.slow
def test_kill_9(tiny: Tiny, scans: Path, tmp_path: Path) -> None:
    """Whatever the moment, the table is the same in the end."""
    tiny.train()
    line = ["-r", str(tiny.folder / "run"), "--data", str(scans), "data_loader.args.batch_size=1", "--out"]
    rows(*line[:-1], out=tmp_path / "whole.csv")
    command, kills = [*line, tmp_path / "killed.csv"], 0
    part = tmp_path / "killed.csv.part"
    slowly = before(Journal, "add", lambda *_: time.sleep(0.01), when=lambda *_: True)
    for wanted in (1, 8, 20):
        child = Child(command, tmp_path, slowly, predict_script.main)
        while (running := alive(child.pid)) and not (part.is_file() and part.read_bytes().count(b"\n") > wanted):
            time.sleep(0.001)
        if running:
            child.signal(signal.SIGKILL)
            child.wait()
            kills += 1
    done = Child(command, tmp_path, main=predict_script.main).wait()
    assert (done.code, kills >= 1) == (0, True), done.text
    assert (tmp_path / "killed.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


# -- several runs -----------------------------------------------------------------------------------------------------


def test_runs_and_views_are_averaged(tiny: Tiny, scans: Path, tmp_path: Path) -> None:
    for seed in (1, 2):
        tiny.train(f"seed={seed}", run=f"s{seed}")
    runs = [tiny.folder / "s1", tiny.folder / "s2"]
    one, two = map(by_hand, runs)

    def found(*argv: str) -> torch.Tensor:
        table = rows("-r", *runs, "--data", scans, "--prob", *argv, out=tmp_path / "out.csv")
        return torch.tensor([[float(row[f"prob_{i}"]) for i in range(10)] for row in table], dtype=torch.float64)

    torch.testing.assert_close(found(), (one + two) / 2, atol=1e-6, rtol=0)
    torch.testing.assert_close(found("--weights", "3,1"), 0.75 * one + 0.25 * two, atol=1e-6, rtol=0)
    of_logits = ((one.log() + two.log()) / 2).softmax(dim=1)
    torch.testing.assert_close(found("--average", "logit"), of_logits, atol=1e-6, rtol=0)
    mirrored = rows("-r", runs[0], "--data", scans, "--prob", "--tta", "hflip", out=tmp_path / "out.csv")
    images = ((torch.from_numpy(digits()[0])[:, None] / 16 - 0.305) / 0.375).float()[
        np.argsort([7 * i % N for i in range(N)])
    ]
    with torch.no_grad():
        flipped = load_model(runs[0])(images.flip(3)).double().softmax(dim=1)
    assert [float(row["prob_4"]) for row in mirrored] == pytest.approx(((one + flipped) / 2)[:, 4].tolist(), abs=1e-6)


def test_weights_by_validation(tiny: Tiny, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that has learned nothing gets no weight."""
    tiny.train("trainer.epochs=4")
    tiny.train("optimizer.args.lr=1e-9", run="untrained")
    line = ["--data", scans, "--weights", "auto"]
    both = rows("-r", tiny.folder / "run", tiny.folder / "untrained", *line, out=tmp_path / "out.csv")
    assert [row["label"] for row in both] == [str(i) for i in by_hand(tiny.folder / "run").argmax(dim=1).tolist()]
    said = capsys.readouterr().out
    assert "weights by 100 validation samples: " in said
    assert "untrained 0.000" in said


def test_weights_by_the_validation_data_of_other_folds_are_refused(tiny: Tiny, scans: Path, tmp_path: Path) -> None:
    split = ["data_loader.args.validation_split=0", "data_loader.args.folds=2"]
    for fold in (0, 1):
        tiny.train(*split, f"data_loader.args.fold={fold}", run=f"fold{fold}")
    line = ["--data", scans, "--weights", "auto"]
    with pytest.raises(UsageError, match="the runs have different validation data"):
        rows("-r", tiny.folder / "fold0", tiny.folder / "fold1", *line, out=tmp_path / "out.csv")


def test_runs_that_do_not_go_together(tiny: Tiny, scans: Path, tmp_path: Path) -> None:
    tiny.train()
    (tmp_path / "list.csv").write_text("a\n1\n")
    saved = tiny.load("checkpoint-step12.pth")
    saved["facts"]["class_names"] = list("abcdefghij")
    torch.save(saved, tmp_path / "other.pth")
    with pytest.raises(
        UsageError, match=r"do not predict the same: the classes of .* are 0, 1, .* those of .* a, b, c"
    ):
        rows("-r", tiny.folder / "run", tmp_path / "other.pth", "--data", scans, out=tmp_path / "out.csv")
    for wrong, said in (("1,2", "give 1 numbers"), ("x", "give a number for each run"), ("-1", "none negative")):
        with pytest.raises(UsageError, match=said):
            rows("-r", tiny.folder / "run", "--data", scans, f"--weights={wrong}", out=tmp_path / "out.csv")
    with pytest.raises(UsageError, match=r"--tta: unknown view 'hflp' \(did you mean 'hflip'\?\)"):
        rows("-r", tiny.folder / "run", "--data", scans, "--tta", "hflp", out=tmp_path / "out.csv")


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """data/train/CLASS/*.png of two colors, and a test folder."""
    for part in ("train", "test"):
        for i in range(12):
            path = tmp_path / "data" / part / ("dark" if i % 2 else "light") / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (12, 10), (40 + i,) * 3 if i % 2 else (200 + i,) * 3).save(path)
    return tmp_path / "data"


PHOTOS = [
    "arch={type: ConvNet, args: {in_channels: 3, widths: [8], depth: 1}}",
    "trainer.epochs=20",
    "optimizer.args.lr=0.3",
]


def trained_on_photos(tiny: Tiny, photos: Path) -> Path:
    loader = f"{{type: ImageFolderDataLoader, args: {{data_dir: {photos}, batch_size: 6, size: 8, min_area: 0.5}}}}"
    tiny.train(f"data_loader={loader}", *PHOTOS)
    return tiny.folder / "run"


def test_a_bad_file_among_good_ones(
    tiny: Tiny, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained_on_photos(tiny, photos)
    folder = photos / "test/dark"
    (folder / "4.png").write_bytes(b"no image")
    line: list[object] = ["-r", run, "--data", folder, "data_loader.args.batch_size=2"]
    with pytest.raises(Stopped, match=r"4\.png.*no image[^\n]*\nRepair or remove it, and run the same command again"):
        rows(*line, out=tmp_path / "out.csv")
    assert (tmp_path / "out.csv.part").read_text().count("\n") == 3  # the two batches before it
    capsys.readouterr()
    found = rows(*line, "--skip-bad", out=tmp_path / "out.csv")
    assert [row["id"] for row in found] == ["1.png", "11.png", "3.png", "5.png", "7.png", "9.png"]
    assert {row["label"] for row in found} == {"dark"}
    captured = capsys.readouterr()
    assert "left out: 4.png: sample 3" in captured.err
    assert "6 rows in" in captured.out
    assert ", without 1 bad samples" in captured.out


def test_wrong_data(tiny: Tiny, photos: Path, tmp_path: Path) -> None:
    run = trained_on_photos(tiny, photos)
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "list.csv").write_text("file\nnowhere.png\n")
    for data, kind, said in (
        (["nothing.png"], DataError, r"there is no nothing\.png; give files \(\.bmp"),
        ([tmp_path / "empty"], DataError, "no files .* in the folder"),
        ([tmp_path / "a.txt"], DataError, r"a\.txt is of another kind"),
        ([tmp_path / "list.csv"], Stopped, r"none of the 1 samples could be read; the first: sample 0 .*nowhere\.png"),
    ):
        with pytest.raises(kind, match=said):
            rows("-r", run, "--data", *data, out=tmp_path / "out.csv")
    with pytest.raises(UsageError, match=r"its weights do not fit the arch that the config has now: size mismatch"):
        rows("-r", run, "--data", photos, "arch.args.num_classes=7", out=tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_a_run_without_checkpoint_and_a_loader_of_ones_own(tiny: Tiny, tmp_path: Path, scans: Path) -> None:
    (tmp_path / "empty/checkpoints").mkdir(parents=True)
    (tmp_path / "empty/config.yaml").write_text("{}")
    with pytest.raises(UsageError, match="this run has no checkpoint yet"):
        rows("-r", tmp_path / "empty", "--data", scans, out=tmp_path / "out.csv")
    mixture = "{type: MixtureDataLoader, args: {loaders: {a: {type: DigitsDataLoader}}, batch_size: 28}}"
    tiny.train(f"data_loader={mixture}")
    with pytest.raises(UsageError, match=r"MixtureDataLoader has no argument 'predict'.*Add `predict: list"):
        rows("-r", tiny.folder / "run", "--data", scans, out=tmp_path / "out.csv")


# -- other kinds of data ----------------------------------------------------------------------------------------------


def test_a_table(tiny: Tiny, tmp_path: Path) -> None:
    pytest.importorskip("polars", reason="needs polars: make extra NAME=tables")
    whole = (ROOT / "data_loader/penguins/penguins.csv").read_text().splitlines()
    loader = f"{{type: TableDataLoader, args: {{file: {ROOT}/data_loader/penguins/penguins.csv, target: species, "
    loader += "test_split: 0.2, validation_split: 0.2, batch_size: 28}}"
    tiny.train(
        f"data_loader={loader}", "arch=TabularMLP", "optimizer={type: AdamW, args: {lr: 0.05}}", "trainer.epochs=8"
    )
    header, *lines = whole
    place = header.split(",").index("species")
    cut = [",".join(f for i, f in enumerate(line.split(",")) if i != place) for line in (header, *lines)]
    numbered = [f"{'Id' if i == 0 else 1000 + i},{line}" for i, line in enumerate(cut)]
    (tmp_path / "new.csv").write_text("\n".join(numbered) + "\n")
    line = ["-r", tiny.folder / "run", "--data", tmp_path / "new.csv"]
    found = rows(*line, "--columns", "Id,island,species=label", out=tmp_path / "out.csv")
    assert [row["Id"] for row in found] == [str(1001 + i) for i in range(len(lines))]
    assert [row["island"] for row in found] == [text.split(",")[header.split(",").index("island")] for text in lines]
    right = [row["species"] == text.split(",")[place] for row, text in zip(found, lines, strict=True)]
    assert np.mean(right) > 0.9
    (tmp_path / "new.csv").write_text("\n".join(",".join(line.split(",")[:-2]) for line in numbered) + "\n")
    with pytest.raises(DataError, match=r"new\.csv has no column '\w+'; it has Id, "):
        rows(*line, out=tmp_path / "out.csv")


def test_texts(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [f"{'good fine' if i % 2 else 'bad poor'} film {i},{i % 2}" for i in range(300)]
    (tmp_path / "t.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    loader = f"{{type: TextTableDataLoader, args: {{file: {tmp_path}/t.csv, tokens: words, batch_size: 28}}}}"
    tiny.train(
        f"data_loader={loader}", "arch=BagOfTokens", "optimizer={type: AdamW, args: {lr: 0.1}}", "trainer.epochs=4"
    )
    run = tiny.folder / "run"
    found = rows("-r", run, "--data", "a good film", "a poor one", "", out=tmp_path / "out.csv")
    assert [(row["id"], row["label"]) for row in found][:2] == [("1", "1"), ("2", "0")]
    assert len(found) == 3
    (tmp_path / "lines.txt").write_text("poor\nfine\nfine fine\n")
    assert [row["label"] for row in rows("-r", run, "--data", tmp_path / "lines.txt", out=tmp_path / "o")] == [
        "0",
        "1",
        "1",
    ]
    (tmp_path / "new.csv").write_text('id,text\n7,"good, fine"\n8,bad\n')
    found = rows("-r", run, "--data", tmp_path / "new.csv", out=tmp_path / "o")
    assert [tuple(row.values()) for row in found] == [("7", "1"), ("8", "0")]
    (tmp_path / "new.csv").write_text("id,document\n7,good\n")
    with pytest.raises(DataError, match=r"new\.csv has no column 'text'; it has id, document"):
        rows("-r", run, "--data", tmp_path / "new.csv", out=tmp_path / "o")


def test_recordings(tiny: Tiny, tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile", reason="needs soundfile: make extra NAME=audio")
    time_, numbers = np.arange(1600) / 8000, np.random.default_rng(0)
    for part, n in (("train", 60), ("new", 9)):
        for i in range(n):
            path = tmp_path / part / ("low" if i % 2 else "high") / f"{i}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            wave = np.sin(2 * np.pi * (300 if i % 2 else 1500) * time_[: numbers.integers(900, 1600)])
            soundfile.write(path, wave, 8000)
    loader = f"{{type: AudioDataLoader, args: {{data_dir: {tmp_path}, sample_rate: 8000, n_mels: 20, batch_size: 12}}}}"
    tiny.train(
        f"data_loader={loader}", "arch={type: AudioCNN, args: {n_mels: 20, widths: [4]}}", "trainer.epochs=6",
        "optimizer={type: AdamW, args: {lr: 0.03}}",
    )  # fmt: skip
    found = rows("-r", tiny.folder / "run", "--data", tmp_path / "new", BATCH, out=tmp_path / "out.csv")
    assert len(found) == 9
    assert all(row["label"] == row["id"].split("/")[0] for row in found)


# -- from Python ------------------------------------------------------------------------------------------------------


def test_from_python(tiny: Tiny, scans: Path) -> None:
    tiny.train()
    expected = by_hand(tiny.folder / "run")
    found = predict(tiny.folder / "run", scans)
    assert found.names == [f"{i:02d}.png" for i in range(N)]
    assert found.labels == [str(i) for i in expected.argmax(dim=1).tolist()]
    torch.testing.assert_close(found.outputs, expected, atol=1e-6, rtol=0)
    images = (torch.from_numpy(digits()[0])[:, None] / 16 - 0.305) / 0.375
    tensors = predict(tiny.folder / "run", images.float())
    assert tensors.labels == [found.labels[7 * i % N] for i in range(N)]
