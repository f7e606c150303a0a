"""Data sets of Hugging Face: what each type of column becomes, what is learned from the training rows, mapped files
that workers open themselves, and what is wrong with a data set."""

import io
import json
import multiprocessing
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import test as testing
from tests.data_loader.batches import first
from tests.tiny import Tiny, tiny
from utils.errors import DataError, UsageError
from utils.run_folder import find_checkpoint

__all__ = ["tiny"]

datasets = pytest.importorskip("datasets", reason="needs datasets: make extra NAME=huggingface")
from data_loader.hugging_face import HuggingFaceDataLoader  # noqa: E402

KINDS = ["low", "mid", "high"]
SOME: dict[str, Any] = {"hugging_face": {}}


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def columns(n: int = 60) -> dict[str, list[Any]]:
    """Three kinds; x and y tell which. The first n of 60 rows."""
    numbers = np.random.default_rng(0)
    kinds = [i % 3 for i in range(60)]
    data: dict[str, list[Any]] = {
        "kind": kinds,
        "name": [KINDS[kind] for kind in kinds],
        "x": [kind * 10 + numbers.normal() for kind in kinds],
        "y": [kind * -3 + int(numbers.integers(3)) for kind in kinds],
        "text": [f"{KINDS[kind]}{' very' * (i % 4)}" for i, kind in enumerate(kinds)],
        "more": [None if i % 5 == 0 else f"no. {i}" for i in range(60)],
        "pair": [[kind, i] for i, kind in enumerate(kinds)],
        "ids": [list(range(1, 2 + i % 4)) for i in range(60)],
        "group": [f"g{i // 6}" for i in range(60)],
    }
    return {name: values[:n] for name, values in data.items()}


def made(n: int = 60) -> Any:
    features = datasets.Features(
        {
            "kind": datasets.ClassLabel(names=KINDS),
            **{name: datasets.Value("string") for name in ("name", "text", "more", "group")},
            "x": datasets.Value("float32"),
            "y": datasets.Value("int32"),
            "pair": datasets.List(datasets.Value("float32")),
            "ids": datasets.List(datasets.Value("int64")),
        }
    )
    data = columns(n)
    return datasets.Dataset.from_dict({name: data[name] for name in features}, features=features)


@pytest.fixture
def saved(tmp_path: Path) -> str:
    """A folder with the splits train (60 rows) and test (12)."""
    datasets.DatasetDict(train=made(), test=made(12)).save_to_disk(tmp_path / "saved")
    return str(tmp_path / "saved")


def load(path: Any, input: Any = "x", target: Any = "kind", **options: Any) -> HuggingFaceDataLoader:
    return HuggingFaceDataLoader(path, input, target, **{"batch_size": 12, "shuffle": False, **options})


# --- what columns become


def test_numbers_are_standardized_by_the_training_rows(saved: str) -> None:
    loader = load(saved, ["x", "y"], validation_split=10, group=None)
    rows = loader.samples(np.arange(50))
    values = np.stack([columns()["x"], columns()["y"]], axis=1).astype(np.float32)
    mean, std = values[rows].mean(axis=0), values[rows].std(axis=0)
    inputs, targets = whole(loader)
    np.testing.assert_allclose(inputs, ((values - mean) / std)[rows], atol=1e-5)
    assert targets.tolist() == (rows % 3).tolist()
    assert (loader.facts["in_features"], loader.facts["num_numbers"]) == (2, 2)
    assert (loader.facts["class_names"], sum(loader.facts["class_counts"])) == (KINDS, 50)
    assert not np.allclose(mean, values.mean(axis=0))  # all rows have another mean
    test = load(saved, ["x", "y"], training=False, facts=loader.facts)
    np.testing.assert_allclose(whole(test)[0], (values_of_test() - mean) / std, atol=1e-5)
    with pytest.raises(UsageError, match=r"give facts=loader\.facts"):
        load(saved, training=False, facts={})


def values_of_test() -> np.ndarray:
    data = columns(12)
    return np.stack([data["x"], data["y"]], axis=1).astype(np.float32)


def test_texts(saved: str) -> None:
    loader = load(saved, ["text", "more"], "name", tokens="words")
    vocabulary = loader.facts["hugging_face"]["text"]["vocabulary"]
    tokens, labels = first(loader)
    shown = [[vocabulary[t - 2] for t in row if t > 0] for row in tokens.tolist()]
    assert shown[:3] == [["low"], ["mid", "very", "no", ".", "1"], ["high", "very", "very", "no", ".", "2"]]
    assert loader.facts["vocab_size"] == 2 + len(vocabulary)
    assert loader.facts["class_names"] == ["high", "low", "mid"]  # of texts, in the order of the alphabet
    assert labels.tolist()[:3] == [1, 2, 0]
    bucketed = load(saved, "text", tokens="bytes", shuffle=True, bucket=5)
    assert sorted(whole(bucketed)[1].tolist()) == sorted(columns()["kind"])
    assert bucketed.dataset.column("lengths").tolist() == [len(text) for text in columns()["text"]]


def whole(loader: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The data of one pass, padded to one length."""
    batches = list(loader)
    longest = max(inputs.shape[1] for inputs, _ in batches)
    inputs = [torch.nn.functional.pad(inputs, (0, longest - inputs.shape[1])) for inputs, _ in batches]
    return torch.cat(inputs), torch.cat([targets for _, targets in batches])


def test_lists(saved: str) -> None:
    pairs, numbers = first(load(saved, "pair", ["x", "y"]))
    assert pairs.tolist()[:2] == [[0.0, 0.0], [1.0, 1.0]]
    assert numbers.shape == (12, 2)
    ids, labels = first(load(saved, "ids", "y", task="regression"))
    assert ids.tolist()[:2] == [[1, 0, 0, 0], [1, 2, 0, 0]]
    assert (labels.shape, labels.dtype) == ((12,), torch.float32)
    assert first(load(saved, "x", "ids"))[1].tolist()[:2] == [[1, -100, -100, -100], [1, 2, -100, -100]]


def test_images_and_transforms(tmp_path: Path) -> None:
    from data_loader.transforms import CenterCrop, RandomCropFlip

    def image(i: int) -> dict[str, Any]:
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), (20 * i, 0, 255)).save(buffer, "png")
        return {"bytes": buffer.getvalue(), "path": None}

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    data = datasets.Dataset.from_dict(
        {"image": [image(i) for i in range(8)], "label": [i % 2 for i in range(8)]}, features=features
    )
    data.save_to_disk(tmp_path / "images")
    path = str(tmp_path / "images")
    images, labels = first(load(path, "image", "label", batch_size=8))
    assert (images.shape, labels.tolist()) == ((8, 3, 8, 8), [0, 1] * 4)
    assert images[3, :, 0, 0].tolist() == pytest.approx([60 / 127.5 - 1, -1, 1])
    options: dict[str, Any] = {
        "transforms": [CenterCrop(4), RandomCropFlip(2)],
        "eval_transforms": [CenterCrop(4)],
        "validation_split": 4,
        "batch_size": 4,
        "mean": (0.0,),
        "std": (1.0,),
    }
    loader = load(path, "image", "label", **options)
    assert first(loader)[0].shape == (4, 3, 4, 4)
    validation = loader.split_validation()
    assert validation is not None
    (seen, classes) = next(iter(validation))
    assert seen[:, 0, 0, 0].mul(255).div(20).round().tolist() == validation.samples(np.arange(4)).tolist()
    assert classes.tolist() == (validation.samples(np.arange(4)) % 2).tolist()


# --- where data comes from


@pytest.mark.parametrize("suffix", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_files(suffix: str, tmp_path: Path) -> None:
    for name, n in (("train", 60), ("test", 12)):
        data = made(n).remove_columns(["pair", "ids", "kind"])
        path = str(tmp_path / f"{name}.{suffix}")
        if suffix == "parquet":
            data.to_parquet(path)
        elif suffix in ("csv", "tsv"):
            data.to_csv(path, sep="\t" if suffix == "tsv" else ",")
        else:
            data.to_json(path)
    options: dict[str, Any] = {"cache_dir": str(tmp_path / "c"), "target": "name"}
    loader = load(str(tmp_path / f"train.{suffix}"), ["x", "y"], **options)
    assert (len(loader.dataset), loader.facts["num_classes"]) == (60, 3)
    both = {name: str(tmp_path / f"{name}.{suffix}") for name in ("train", "test")}
    test = load(both, ["x", "y"], training=False, facts=loader.facts, **options)
    assert torch.equal(first(test)[0], first(loader)[0])
    assert len(test.dataset) == 12


def test_a_changed_file_is_converted_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    for values in ((1, 2), (3, 4)):
        path.write_text("x,kind\n" + "".join(f"{value},{'ab'[i]}\n" for i, value in enumerate(values)))
        os.utime(path, (values[0], values[0]))
        loader = load(str(path), cache_dir=str(tmp_path / "c"), batch_size=2)
        assert loader.facts["hugging_face"]["scale"]["mean"] == [np.mean(values)]


def test_the_files_stay_mapped_and_workers_open_them(saved: str) -> None:
    loader = load(saved, ["x", "y"])
    assert type(loader.dataset.data.data).__name__ in ("MemoryMappedTable", "ConcatenationTable")
    copy = pickle.loads(pickle.dumps(loader.dataset))
    assert torch.equal(copy.__getitems__([3, 1])[0], loader.dataset.__getitems__([3, 1])[0])
    assert len(pickle.dumps(loader.dataset)) < 8000


@pytest.mark.slow
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_by_fork_and_spawn(start: str, saved: str) -> None:
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method(start, force=True)
    try:
        found = []
        for count in (0, 1 if start == "spawn" else 2):  # one that is spawned imports torch anew
            stream = load(saved, "text", num_workers=count, shuffle=True).iter_steps(0)
            found.append([tuple(next(stream).data) for _ in range(6)])
            stream.close()
    finally:
        multiprocessing.set_start_method(before, force=True)
    for one, two in zip(*found, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


# --- what is wrong


def test_data_that_is_not_there(tmp_path: Path, saved: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        DataError,
        match=r"'no/such' is not in the cache and cannot be downloaded: .*; where there is a "
        r"network, run python -c .*load_dataset\('no/such'\)\.save_to_disk\('data/such'\).*path=data/such",
    ):
        load("no/such")
    with pytest.raises(DataError, match=r"the split 'tset' of .* cannot be read: .*splits train, test .*'test'"):
        load(saved, training=False, test="tset", facts=SOME)
    with pytest.raises(DataError, match=r"Unable to find .*nowhere.csv"):
        load(str(tmp_path / "nowhere.csv"))
    made().save_to_disk(tmp_path / "one")
    with pytest.raises(DataError, match="it is one data set without splits; save a DatasetDict"):
        load(str(tmp_path / "one"), training=False, facts=SOME)
    made().select([]).save_to_disk(tmp_path / "none")
    with pytest.raises(DataError, match=r"'train' of .*none (has no rows|cannot be read)"):
        load(str(tmp_path / "none"))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match="needs the library datasets, which is not installed: make extra NAME=hugging"):
        load(saved)


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("a.csv", b"", r"a.csv cannot be read: .*No columns to parse"),
        ("a.jsonl", b'{"x": 1}\n{"x":', r"a.jsonl cannot be read: .*JSON parse error"),
        ("a.parquet", b"PAR1 and no more", r"a.parquet cannot be read: .*Parquet"),
        ("a.csv", b"x,kind\n1,a\n2,b,c,d\n", r"a.csv cannot be read: .*fields in line 3"),
        ("a.csv", b"x,kind\n1,a\n2,\xff\n", r"a.csv cannot be read: .*can't decode byte 0xff"),
        ("a.csv", b"x,kind\n1,a\n,b\n", r"row 1, column 'x': no value, and 1 rows in all have none; remove them"),
        ("a.csv", b"x,kind\n1,a\n2,\n", r"row 1, column 'kind': no value"),
        ("a.csv", b"x,kind\n1,a\n2,a\n", r"column 'kind': all training samples are of one class, 'a'; there is"),
        ("a.csv", b"y,kind\n1,a\n2,b\n", r"split 'train', has no column 'x' .*; it has y, kind"),
        ("a.csv", b"x,kidn\n1,a\n2,b\n", r"no column 'kind' \(did you mean 'kidn'\?\); it has x, kidn"),
    ],
)
def test_wrong_files(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words) as error:
        load(str(tmp_path / name), batch_size=1, cache_dir=str(tmp_path / "c"))
    assert error.value.exit_code == 2
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_files_that_are_right(end: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(("\ufeff" + end.join(["x,kind", "1,é", "2,한글", ""])).encode())
    assert load(str(tmp_path / "a.csv"), batch_size=1, cache_dir=str(tmp_path / "c")).facts["class_names"] == [
        "é",
        "한글",
    ]


@pytest.mark.parametrize(
    "values, input, target, words",
    [
        ({"when": np.array(["2020-01-01"] * 4, "M8[s]")}, "when", "kind", r"'when' is of type Value\('timestamp\[s\]'"),
        ({"deep": [{"a": 1}] * 4}, "deep", "kind", r"'deep' is of type {'a': .*; numbers, texts, .* can be read"),
        ({"text": ["a"] * 4}, ["x", "text"], "kind", r"input has the columns x: integer, text: text; give one, or"),
        ({"text": ["a"] * 4}, "x", ["kind", "text"], r"target has the columns kind: text, text: text, and task is"),
        ({"v": [[1.5], [1.0, 2], [1.0], [2.0]]}, "v", "kind", r"row 1, column 'v' has another number of values"),
        ({"v": [[1.5, None], [1.0, 2], [1.0, 3], [2.0, 4]]}, "v", "kind", "has a list in which a value is missing"),
        ({"x": [1.0, float("nan"), 2, 3]}, "x", "kind", r"row 1 has a number that is infinite or not a number"),
        ({}, "kind", "kind", "input is .'kind'. and target .'kind'.; give each at least one column, and none to both"),
    ],
)  # fmt: skip
def test_columns_of_the_wrong_type(values: Any, input: Any, target: Any, words: str, tmp_path: Path) -> None:
    data = datasets.Dataset.from_dict({"x": [1, 2, 3, 4], "kind": ["a", "b", "a", "b"], **values})
    data.save_to_disk(tmp_path / "d")
    with pytest.raises((UsageError, Exception), match=words):
        list(load(str(tmp_path / "d"), input, target, batch_size=4))


def test_labels_that_are_unknown(tmp_path: Path) -> None:
    feature = datasets.Features({"x": datasets.Value("int64"), "kind": datasets.ClassLabel(names=["a", "b"])})
    data = datasets.Dataset.from_dict({"x": [1, 2, 3], "kind": [0, -1, 1]}, features=feature)
    data.save_to_disk(tmp_path / "d")
    with pytest.raises(DataError, match="row 1, column 'kind': the label -1 is none of the 2 classes a, b; -1 means"):
        load(str(tmp_path / "d"), batch_size=1)
    plain = datasets.Dataset.from_dict({"x": [1, 2, 3], "kind": ["a", "b", "a"]})
    other = datasets.Dataset.from_dict({"x": [1, 2, 3], "kind": ["a", "b", "c"]})
    datasets.DatasetDict(train=plain, test=other).save_to_disk(tmp_path / "two")
    loader = load(str(tmp_path / "two"), batch_size=1)
    with pytest.raises(DataError, match=r"split 'test', row 2, column 'kind': the class 'c' is in no training sample"):
        load(str(tmp_path / "two"), training=False, facts=loader.facts)
    with pytest.raises(DataError, match=r"split 'test', row 2, column 'kind': the class 'c' is in no training sample"):
        load(str(tmp_path / "two"), valid="test", batch_size=1)


# --- data without targets


def test_what_predict_py_accepts(tmp_path: Path, saved: str) -> None:
    facts = load(saved, "text", tokens="words").facts
    more: dict[str, Any] = {"training": False, "facts": facts}
    one = load(saved, "text", predict=["low very", "high"], **more)
    vocabulary = facts["hugging_face"]["text"]["vocabulary"]
    assert [vocabulary[token - 2] for token in first(one)[0][0].tolist()] == ["low", "very"]
    assert first(one)[0][1, 1] == 0
    rows = load(saved, "text", predict=[saved], **more)  # the test split of a folder of several
    assert (len(rows.dataset), rows.unlabeled.names) == (12, range(1, 13))
    assert list(rows.unlabeled.columns["name"]) == columns(12)["name"]
    assert rows.unlabeled.columns["name"][2] == "high"
    (tmp_path / "a.csv").write_text("id,text\n7,low\n9,high\n")
    named = load(saved, "text", predict=[str(tmp_path / "a.csv")], cache_dir=str(tmp_path / "c"), **more)
    assert list(named.unlabeled.names) == ["7", "9"]
    (tmp_path / "a.csv").write_text("id,txt\n7,low\n9,high\n")
    with pytest.raises(DataError, match=r"a.csv, has no column 'text' \(did you mean 'txt'\?\)"):
        load(saved, "text", predict=[str(tmp_path / "a.csv")], cache_dir=str(tmp_path / "c"), **more)


# --- a whole run


def test_a_run_learns_and_test_py_reads_by_what_was_learned(tiny: Tiny, saved: str) -> None:
    loader = f"{{path: {saved}, input: [x, y], target: kind, batch_size: 12, validation_split: 12}}"
    options = [f"data_loader={{type: HuggingFaceDataLoader, args: {loader}}}", "arch={type: MLP, args: {hidden: [8]}}",
               "trainer={epochs: 20, limit_batches: null}", "optimizer.args.lr=0.5"]  # fmt: skip
    done = tiny.train(*options)
    assert tiny.points("valid")[-1]["accuracy"] == 1
    saved_facts = tiny.load(tiny.checkpoints()[-1])["facts"]
    assert saved_facts["hugging_face"] == json.loads(json.dumps(done.data_loader.facts["hugging_face"]))
    testing.main(["-r", str(find_checkpoint(str(tiny.folder / "run")))])
    assert tiny.points("test")[0]["accuracy"] == 1
