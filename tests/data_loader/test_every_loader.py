"""For every loader: killed in the middle of an epoch, with workers, and resumed, it gives the same bits as without
either; and two ranks give the same weights as one, up to rounding."""

import io
import json
import multiprocessing
import signal
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import test as testing
from tests.tiny import Tiny, tiny
from tests.trainer.checkpoint.harness import at_step, die, unequal
from tests.trainer.parallel.ranks import on_ranks, trained
from trainer.inference import predict
from utils.errors import UsageError

__all__ = ["tiny"]

ROWS = 60
CLASSES = "abc"
OPTIONS = [
    "trainer={max_steps: 12, epochs: null, save_steps: 4, log_steps: 2, limit_batches: null, tensorboard: false, "
    "verbosity: 0, keep_last: 9}",
    "optimizer={type: SGD, args: {lr: 0.1, momentum: 0.9}}",
]


def overrides(loader: str, args: dict[str, Any], arch: str, arch_args: dict[str, Any]) -> list[str]:
    args = {"batch_size": 12} | args  # 4 steps an epoch of the 48 samples that train, or a few more
    parts = {"data_loader": {"type": loader, "args": args}, "arch": {"type": arch, "args": arch_args}}
    return [f"{section}={json.dumps(part)}" for section, part in parts.items()] + OPTIONS


def text(i: int) -> str:
    return f"text {CLASSES[i % 3]}" + " of words" * (i * 7 % 11)


def table(folder: Path) -> list[str]:
    pytest.importorskip("polars", reason="needs polars: make extra NAME=tables")
    rows = [f"{i % 3 + i / 50},{'xyz'[i % 2]},{CLASSES[i % 3]}" for i in range(ROWS)]
    (folder / "t.csv").write_text("\n".join(["number,category,kind", *rows]))
    args = {"file": str(folder / "t.csv"), "target": "kind", "validation_split": 12}
    return overrides("TableDataLoader", args, "TabularMLP", {"hidden": [8]})


def texts(folder: Path) -> list[str]:
    rows = [f"{text(i)}\t{CLASSES[i % 3]}" for i in range(ROWS)]
    (folder / "t.tsv").write_text("\n".join(["text\tlabel", *rows]))
    args = {"file": str(folder / "t.tsv"), "tokens": "words", "bucket": 2, "validation_split": 12}
    return overrides("TextTableDataLoader", args, "BagOfTokens", {"width": 4})


def folders_of_texts(folder: Path) -> list[str]:
    for i in range(ROWS):
        (folder / "train" / CLASSES[i % 3]).mkdir(parents=True, exist_ok=True)
        (folder / "train" / CLASSES[i % 3] / f"{i}.txt").write_text(text(i))
    args = {"data_dir": str(folder), "tokens": "ngrams", "vocab_size": 50, "validation_split": 12}
    return overrides("TextFolderDataLoader", args, "TextCNN", {"width": 4, "dropout": 0.0})


def blocks(folder: Path) -> list[str]:
    (folder / "t.txt").write_text("".join(text(i) + "\n" for i in range(ROWS)))
    args = {"file": str(folder / "t.txt"), "block_size": 16, "stride": 32}
    gpt = {"layers": 1, "heads": 1, "width": 8}
    return [*overrides("LanguageModelDataLoader", args, "GPT", gpt), "metrics=[]"]


def lines(folder: Path) -> list[str]:
    (folder / "t.txt").write_text("".join(text(i) + "\n" for i in range(ROWS)))
    args = {"file": str(folder / "t.txt"), "bucket": 2, "validation_split": 12}
    gpt = {"layers": 1, "heads": 1, "width": 8}
    return [*overrides("LinesDataLoader", args, "GPT", gpt), "metrics=[]"]


def audio(folder: Path) -> list[str]:
    soundfile = pytest.importorskip("soundfile", reason="needs soundfile: make extra NAME=audio")
    for i in range(ROWS):
        time = np.arange(800 + i % 7 * 100) / 8000
        (folder / "train" / CLASSES[i % 3]).mkdir(parents=True, exist_ok=True)
        wave = 0.5 * np.sin(2 * np.pi * 300 * (i % 3 + 1) * time)
        soundfile.write(folder / "train" / CLASSES[i % 3] / f"{i}.wav", wave, 8000)
    args = {"data_dir": str(folder), "sample_rate": 8000, "n_mels": 16, "masks": 1, "max_seconds": 0.12}
    cnn = {"n_mels": 16, "widths": [4], "dropout": 0.0}
    return overrides("AudioDataLoader", args | {"validation_split": 12}, "AudioCNN", cnn)


def hugging_face(folder: Path) -> list[str]:
    datasets = pytest.importorskip("datasets", reason="needs datasets: make extra NAME=huggingface")
    rows = {"text": [text(i) for i in range(ROWS)], "kind": [CLASSES[i % 3] for i in range(ROWS)]}
    datasets.Dataset.from_dict(rows).to_parquet(folder / "t.parquet")  # converted by one of the ranks
    args = {"path": str(folder / "*.parquet"), "input": "text", "target": "kind", "bucket": 2, "validation_split": 12}
    return overrides("HuggingFaceDataLoader", args | {"cache_dir": str(folder)}, "BagOfTokens", {"width": 4})


def arrays(folder: Path) -> list[str]:
    np.save(folder / "x.npy", np.random.default_rng(0).normal(size=(ROWS, 6)) + np.arange(ROWS)[:, None] % 3)
    np.save(folder / "y.npy", np.arange(ROWS) % 3)
    args = {"inputs": str(folder / "x.npy"), "targets": str(folder / "y.npy"), "standardize": True}
    return overrides("ArrayDataLoader", args | {"validation_split": 12}, "MLP", {"hidden": [8]})


def tar_files(folder: Path) -> list[str]:
    from PIL import Image

    for shard in range(3):
        with tarfile.open(folder / f"{shard}.tar", "w") as tar:
            for i in range(shard, ROWS, 3):
                picture = io.BytesIO()
                Image.new("RGB", (6, 6), (80 * (i % 3), i, 0)).save(picture, "png")
                for name, data in ((f"{i}.png", picture.getvalue()), (f"{i}.cls", str(i % 3).encode())):
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    args = {"shards": str(folder / "*.tar"), "validation_split": 12}
    crop = [{"type": "RandomCropFlip", "args": {"crop": 1, "flip": True}}]
    return overrides("TarDataLoader", args | {"transforms": crop}, "MLP", {"in_features": 108, "hidden": [8]})


EVERY = [table, texts, folders_of_texts, blocks, lines, audio, hugging_face, arrays, tar_files]


def killed(trainer: Any) -> None:
    at_step(6, die)()


def forking(*args: Any) -> Any:
    """`trained`, whose workers are forked: by default they would come from a server, as this process does, and outlive
    it."""
    multiprocessing.set_start_method("fork", force=True)
    return trained(*args)


@pytest.mark.slow
@pytest.mark.parametrize("make", EVERY, ids=lambda make: make.__name__)
def test_kills_workers_and_ranks(make: Callable[[Path], list[str]], tmp_path: Path) -> None:
    options = make(tmp_path)
    (whole,) = on_ranks(1, trained, options, tmp_path / "whole")
    assert isinstance(whole, dict), whole
    assert whole["step"] == 12

    workers = [*options, "data_loader.args.num_workers=2"]
    assert on_ranks(1, forking, workers, tmp_path / "cut", killed) == [-signal.SIGKILL]
    (resumed,) = on_ranks(1, forking, workers, tmp_path / "cut")
    assert isinstance(resumed, dict), resumed
    assert [step for split, step, _ in resumed["points"] if split == "train"] == [6, 8, 10, 12]  # from step 4 on
    name = "run/checkpoints/checkpoint-step12.pth"
    one, two = (torch.load(tmp_path / run / name, weights_only=True) for run in ("whole", "cut"))
    for key in ("model", "optimizer", "facts"):
        assert not list(unequal(one[key], two[key]))

    first, second = on_ranks(2, trained, options)
    assert isinstance(first, dict), first
    assert isinstance(second, dict), second
    for name, value in whole["weights"].items():
        np.testing.assert_allclose(first["weights"][name], value, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(first["weights"][name], second["weights"][name])
    for (split, step, values), (_, _, others) in zip(whole["points"], first["points"], strict=True):
        assert values["loss"] == pytest.approx(others["loss"], abs=1e-6), (split, step)


Make = Callable[[Path], list[str]]
# How each is tested on the data that it is trained with, and predicted for: options of data_loader.args, and files
NEW: dict[Make, tuple[dict[str, str], list[str]]] = {
    table: ({"test_file": "t.csv"}, ["t.csv"]),
    texts: ({"test_file": "t.tsv"}, ["t.tsv"]),
    hugging_face: ({"test": "train"}, ["t.parquet"]),
    arrays: ({"test_inputs": "x.npy", "test_targets": "y.npy"}, ["x.npy"]),
    tar_files: ({"test_shards": "*.tar"}, ["0.tar", "1.tar", "2.tar"]),
}


@pytest.mark.parametrize("make", NEW, ids=lambda make: make.__name__)
def test_predictions_are_the_outputs_of_test_py(make: Callable[[Path], list[str]], tiny: Tiny, tmp_path: Path) -> None:
    options, (tested, data) = make(tmp_path), NEW[make]
    more = [f"data_loader.args.{name}={tmp_path / value if '.' in value else value}" for name, value in tested.items()]
    tiny.train(*options, *more, "trainer.max_steps=4")
    run = str(tiny.folder / "run")
    testing.main(["-r", run, "--save", str(tmp_path / "outputs.npz")])
    found = predict(run, [str(tmp_path / name) for name in data])
    with np.load(tmp_path / "outputs.npz") as saved:
        np.testing.assert_allclose(found.outputs, saved["probabilities"], rtol=0, atol=1e-6)
        assert found.labels == saved["class_names"][saved["outputs"].argmax(axis=1)].tolist()
    assert len(set(found.names)) == ROWS


@pytest.mark.parametrize("make", [blocks, lines], ids=lambda make: make.__name__)
def test_a_language_model_makes_no_table(make: Callable[[Path], list[str]], tiny: Tiny, tmp_path: Path) -> None:
    tiny.train(*make(tmp_path), "trainer.max_steps=1")
    with pytest.raises(UsageError, match=r"which is not a table row; test.py gives its loss on a text"):
        predict(str(tiny.folder / "run"), ["To be"])


def test_testing_by_hand_needs_the_facts_of_the_training_data(tmp_path: Path) -> None:
    """Classes are never learned of test data."""
    from data_loader.arrays import ArrayDataLoader
    from data_loader.tar_shards import TarDataLoader

    arrays(tmp_path)
    tar_files(tmp_path)
    x, y, tars = (str(tmp_path / name) for name in ("x.npy", "y.npy", "*.tar"))
    with pytest.raises(UsageError, match=r"which is missing; give facts=loader\.facts"):
        ArrayDataLoader(x, y, test_inputs=x, test_targets=y, training=False)
    with pytest.raises(UsageError, match=r"which is missing; give facts=loader\.facts"):
        TarDataLoader(tars, test_shards=tars, input="png", training=False)


def test_each_loader_is_covered() -> None:
    """Those of images have tests of their own (tests/trainer/checkpoint, tests/data_loader/test_vision.py)."""
    images = {"MnistDataLoader", "Cifar10DataLoader", "ImageFolderDataLoader", "ImageTableDataLoader"}
    images |= {"SegmentationDataLoader", "DigitsDataLoader"}
    text_of_this = Path(__file__).read_text()
    root = Path(__file__).resolve().parents[2] / "data_loader"
    found = {
        line.split("class ")[1].split("(")[0]
        for file in root.glob("*.py")
        for line in file.read_text().splitlines()
        if line.startswith("class ") and not line.startswith("class _") and "DataLoader(BaseDataLoader)" in line
    }
    assert {name for name in found - images if f'"{name}"' not in text_of_this} <= {"TextDataLoader", "MyDataLoader"}
