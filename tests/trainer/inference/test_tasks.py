"""predict.py for each kind of task: masks, several labels, numbers, a language model; and rows that cannot be read."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import predict as predict_script
from tests.tiny import Tiny, tiny
from trainer import load_model
from trainer.inference import predict
from trainer.inference.journal import Journal
from utils.errors import DataError, UsageError

__all__ = ["tiny"]

CONV = "arch={type: ConvNet, args: {in_channels: 3, widths: [4], depth: 1}}"


def run(tiny: Tiny, *argv: object) -> None:
    predict_script.main(["-r", str(tiny.folder / "run"), *map(str, argv)])


def rows(path: Path, encoding: str = "utf-8") -> list[dict[str, str]]:
    with open(path, newline="", encoding=encoding) as file:
        return list(csv.DictReader(file))


# -- images ------------------------------------------------------------------------------------------------------------


def segmented(tiny: Tiny, values: str = "null", classes: str = "null") -> Path:
    """A run on images of 24 x 16, dark on the left and light on the right; the folder of those for testing."""
    for part in ("train", "test"):
        for i in range(12):
            edge = 6 + i
            image = np.full((16, 24, 3), 30 + i, np.uint8)
            image[:, edge:] = 220 - i
            mask = np.zeros((16, 24), np.uint8)
            mask[:, edge:] = 255 if values != "null" else 1
            for kind, pixels in (("images", image), ("masks", mask)):
                path = tiny.folder / "data" / part / kind / f"{i:02d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    loader = f"{{type: SegmentationDataLoader, args: {{data_dir: {tiny.folder}/data, batch_size: 4, size: 16, "
    loader += f"min_area: 0.5, values: {values}, classes: {classes}}}}}"
    tiny.train(
        f"data_loader={loader}", "arch={type: UNet, args: {widths: [4, 8]}}", "metrics=[MeanIoU]", "trainer.epochs=10",
        "loss={type: cross_entropy, args: {ignore_index: 255}}", "optimizer={type: AdamW, args: {lr: 0.05}}",
    )  # fmt: skip
    return tiny.folder / "data/test/images"


@pytest.mark.slow
def test_masks(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the images' size and with the values of the training masks; a killed job, a view and a bad file."""
    images = segmented(tiny, values="[0, 255]")
    run(tiny, "--data", images, "--out", tmp_path / "masks")
    assert rows(tmp_path / "masks/predictions.csv") == [
        {"id": f"{i:02d}.png", "mask": f"{i:02d}.png"} for i in range(12)
    ]
    right = []
    for i in range(12):
        with Image.open(tmp_path / f"masks/{i:02d}.png") as file:
            found = np.array(file)
        assert found.shape == (16, 24)
        right.append(np.mean(found == np.array(Image.open(images.parent / f"masks/{i:02d}.png"))))
    assert np.mean(right) > 0.95
    added, add = list[int](), Journal.add

    def dies(self: Journal, *args: object) -> None:
        if len(added) == 2:
            raise KeyboardInterrupt
        added.append(1)
        add(self, *args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "add", dies)
        with pytest.raises(KeyboardInterrupt):
            run(tiny, "--data", images, "--out", tmp_path / "killed")
    (tmp_path / "killed/00.png").unlink()  # of a batch that is done
    run(tiny, "--data", images, "--out", tmp_path / "killed")
    assert not (tmp_path / "killed/00.png").exists()
    for i in range(1, 12):
        assert (tmp_path / f"killed/{i:02d}.png").read_bytes() == (tmp_path / f"masks/{i:02d}.png").read_bytes()
    for wrong, said in (
        (["--out", tmp_path / "o.csv"], r"o\.csv: this run predicts a mask for each image; give a folder"),
        (["--prob"], "--columns, --prob: this run predicts a mask for each image, not a row"),
    ):
        with pytest.raises(UsageError, match=said):
            run(tiny, "--data", images, *wrong)
    (images / "03.png").write_bytes(b"no image")
    run(tiny, "--data", images, "--out", tmp_path / "rest", "--skip-bad", "--tta", "hflip")
    assert len(list((tmp_path / "rest").glob("*.png"))) == 11 == len(rows(tmp_path / "rest/predictions.csv"))
    with Image.open(tmp_path / "rest/00.png") as one, Image.open(tmp_path / "masks/00.png") as other:
        assert np.mean(np.array(one) == np.array(other)) > 0.95  # the mirrored prediction was mirrored back
    assert predict(tiny.folder / "run", images / "00.png").outputs.shape == (1, 2, 16, 16)


@pytest.mark.slow
def test_several_labels(tiny: Tiny) -> None:
    lines = ["image,red,blue"]
    for i in range(24):
        red, blue = i % 2, i // 2 % 2
        Image.new("RGB", (8, 8), (250 * red, 0, 250 * blue)).save(tiny.folder / f"{i}.png")
        lines.append(f"{i}.png,{red},{blue}")
    (tiny.folder / "train.csv").write_text("\n".join(lines) + "\n")
    loader = f"{{type: ImageTableDataLoader, args: {{data_dir: {tiny.folder}, labels: [red, blue], batch_size: 6, "
    loader += "size: 8, min_area: 1.0}}"
    tiny.train(
        f"data_loader={loader}", CONV, "loss=BCEWithLogitsLoss", "metrics=[]", "trainer.epochs=20",
        "optimizer={type: AdamW, args: {lr: 0.1}}",
    )  # fmt: skip
    given = [tiny.folder / f"{i}.png" for i in (3, 1, 0)]
    run(tiny, "--data", *given, "--prob", "--out", tiny.folder / "o.csv")
    found = rows(tiny.folder / "o.csv")
    assert [row["label"] for row in found] == ["red blue", "red", ""]
    assert list(found[0]) == ["id", "label", "prob_red", "prob_blue"]
    assert float(found[1]["prob_red"]) > 0.5 > float(found[1]["prob_blue"])


# -- tables and texts --------------------------------------------------------------------------------------------------


def on_a_table(tiny: Tiny) -> Path:
    """A run that predicts y = 100 + 10 x; the table of it without y."""
    pytest.importorskip("polars", reason="needs polars: make extra NAME=tables")
    draws = np.random.default_rng(0)
    x = draws.normal(size=200)
    lines = [f"{v:.6f},{'ab'[i % 2]},{100 + 10 * v:.6f}" for i, v in enumerate(x)]
    (tiny.folder / "t.csv").write_text("\n".join(["x,kind,y", *lines]) + "\n")
    loader = f"{{type: TableDataLoader, args: {{file: {tiny.folder}/t.csv, target: y, batch_size: 28}}}}"
    tiny.train(
        f"data_loader={loader}", "arch=TabularMLP", "loss=MSELoss", "metrics=[]", "trainer.epochs=10",
        "optimizer={type: AdamW, args: {lr: 0.05}}",
    )  # fmt: skip
    (tiny.folder / "new.csv").write_text("id,kind,x,more\np,a,0.5,1\nq,b,-1.0,2\nr,c,0.0,3\n")
    return tiny.folder / "new.csv"


@pytest.mark.slow
def test_numbers(tiny: Tiny, capfd: pytest.CaptureFixture[str]) -> None:
    """In the units of the target, and columns found by name; a category that is new is reported."""
    new = on_a_table(tiny)
    run(tiny, "--data", new, "--columns", "id,y=label", "--out", tiny.folder / "o.csv")
    found = rows(tiny.folder / "o.csv")
    assert [row["id"] for row in found] == ["p", "q", "r"]
    assert [float(row["y"]) for row in found] == pytest.approx([105, 90, 100], abs=4)
    expected = predict(tiny.folder / "run", new)
    assert [float(row["y"]) for row in found] == pytest.approx(expected.outputs.flatten().tolist(), rel=1e-6)
    assert "no training sample has 'c' in the column 'kind' (1 of 3 rows)" in capfd.readouterr().err
    with pytest.raises(UsageError, match=r"new\.csv is the data itself, which it would replace"):
        run(tiny, "--data", new, "--out", new)
    with pytest.raises(UsageError, match="unknown column 'prob'"):
        run(tiny, "--data", new, "--columns", "prob", "--out", tiny.folder / "o.csv")


@pytest.mark.slow
def test_rows_that_cannot_be_read(tiny: Tiny, capfd: pytest.CaptureFixture[str]) -> None:
    new, out = on_a_table(tiny), tiny.folder / "o.csv"
    new.write_text("x,kind\n1.0,a\nmuch,b\n0.5\n0.0,a\n")
    with pytest.raises(DataError, match=r"new\.csv, row 3, column 'x': got 'much'.*\n.*--skip-bad"):
        run(tiny, "--data", new, "--out", out)
    assert not out.exists()
    capfd.readouterr()
    run(tiny, "--data", new, "--out", out, "--skip-bad")
    assert [row["id"] for row in rows(out)] == ["1", "4"]  # their numbers in the table
    captured = capfd.readouterr()
    assert "left out: row 3: " in captured.err
    assert "row 4: 1 fields, fewer than the 2 of the header" in captured.err
    assert "2 rows in" in captured.out
    assert "without 2 bad samples" in captured.out


@pytest.mark.slow
def test_sentences_that_cannot_be_read(tiny: Tiny) -> None:
    """Korean, and for Excel, which takes a table without a mark for another encoding."""
    lines = [f"{'좋은 영화' if i % 2 else '나쁜 영화'} {i},{'긍정' if i % 2 else '부정'}" for i in range(100)]
    (tiny.folder / "t.csv").write_text("\n".join(["text,label", *lines]) + "\n", encoding="utf-8")
    loader = f"{{type: TextTableDataLoader, args: {{file: {tiny.folder}/t.csv, tokens: words, batch_size: 28}}}}"
    tiny.train(
        f"data_loader={loader}", "arch=BagOfTokens", "optimizer={type: AdamW, args: {lr: 0.1}}", "trainer.epochs=4"
    )
    (tiny.folder / "new.csv").write_text("text\n좋은\n나쁜,둘\n나쁜\n", encoding="utf-8")
    out = tiny.folder / "o.csv"
    with pytest.raises(DataError, match=r"new\.csv, line 3: 2 fields, more than the 1"):
        run(tiny, "--data", tiny.folder / "new.csv", "--out", out)
    run(tiny, "--data", tiny.folder / "new.csv", "--out", out, "--skip-bad", "--excel")
    assert out.read_bytes().startswith(b"\xef\xbb\xbfid,label\n1,")
    assert [tuple(row.values()) for row in rows(out, "utf-8-sig")] == [("1", "긍정"), ("3", "부정")]
    (tiny.folder / "texts").mkdir()
    for name, text in (("1", "좋은".encode()), ("2", b"\xff\xff"), ("3", b"")):
        (tiny.folder / f"texts/{name}.txt").write_bytes(text)
    run(tiny, "--data", tiny.folder / "texts", "--out", out, "--skip-bad")
    assert [row["id"] for row in rows(out)] == ["1.txt"]


def test_a_language_model(tiny: Tiny) -> None:
    (tiny.folder / "book.txt").write_text("abcdefgh" * 100)
    loader = f"{{type: LanguageModelDataLoader, args: {{file: {tiny.folder}/book.txt, block_size: 8, batch_size: 28}}}}"
    tiny.train(
        f"data_loader={loader}", "arch={type: GPT, args: {width: 8, heads: 2, layers: 1}}", "metrics=[]",
        "trainer.epochs=1",
    )  # fmt: skip
    with pytest.raises(UsageError, match="a language model predicts the next byte at each place"):
        run(tiny, "--data", "abc", "--out", tiny.folder / "o.csv")


# -- where it is written, and from Python ------------------------------------------------------------------------------


def test_the_place_of_the_table(tiny: Tiny) -> None:
    tiny.train()
    Image.new("L", (8, 8)).save(tiny.folder / "1.png")
    run(tiny, "--data", tiny.folder / "1.png", "--out", tiny.folder / "new/folder/o.csv")
    assert len(rows(tiny.folder / "new/folder/o.csv")) == 1
    with pytest.raises(
        UsageError, match=r"--out .*new is a folder; give the name of a file, such as .*predictions\.csv"
    ):
        run(tiny, "--data", tiny.folder / "1.png", "--out", tiny.folder / "new")


def test_tensors_from_python(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the trainer's predict_step, from one read of the checkpoint; for lazy layers, too."""
    from model import model as models
    from trainer.checkpoint import files
    from trainer.trainer import Trainer

    monkeypatch.setattr(models, "MLP", lambda in_features, hidden: torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.LazyLinear(10)))  # fmt: skip
    tiny.train()
    inputs, loaded, load = torch.randn(3, 1, 8, 8), list[Path](), files.load

    def counted(path: Path, *args: object) -> object:
        loaded.append(path)
        return load(path, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(files, "load", counted)
    found = predict(tiny.folder / "run", inputs)
    assert len(loaded) == 1
    weight, bias = tiny.load("checkpoint-step12.pth")["model"].values()
    expected = (inputs.flatten(1) @ weight.T + bias).double().softmax(dim=1)
    torch.testing.assert_close(found.outputs, expected, atol=1e-6, rtol=0)
    assert found.labels == [str(i) for i in expected.argmax(dim=1).tolist()]
    monkeypatch.setattr(Trainer, "predict_step", lambda self, inputs: -self.model(inputs))
    other = predict(tiny.folder / "run", inputs)
    torch.testing.assert_close(other.outputs, (-expected.log()).softmax(dim=1), atol=1e-6, rtol=0)


def test_a_run_that_is_loaded(tiny: Tiny) -> None:
    tiny.train()
    model = load_model(tiny.folder / "run")
    assert not model.training
    for wrong, said in ((["1.png", "nowhere.png"], "there is no 1.png, nowhere.png"), ("no.png", "there is no no.png")):
        with pytest.raises(DataError, match=said):
            predict(tiny.folder / "run", wrong)
