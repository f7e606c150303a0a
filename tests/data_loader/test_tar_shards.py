"""Tar files read at random: what each ending becomes, the index (made once, by one of several processes, anew when a
file changes, whatever is killed), workers, and what is wrong with a tar file."""

import io
import json
import multiprocessing
import os
import pickle
import signal
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import test as testing
from data_loader.engine.files import tar_index
from data_loader.tar_shards import TarDataLoader
from data_loader.transforms import CenterCrop, RandomCropFlip
from tests.data_loader.batches import first, whole
from tests.tiny import Tiny, tiny
from utils.errors import DataError, SampleError, UsageError
from utils.run_folder import find_checkpoint

__all__ = ["tiny"]
COLORS = ("red", "green")


def png(i: int, side: int = 8) -> bytes:
    """Red ones and green ones; the blue says which it is."""
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (255 * (i % 2 == 0), 255 * (i % 2), 5 * i)).save(buffer, "png")
    return buffer.getvalue()


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def sample(i: int) -> dict[str, bytes]:
    label = {"color": COLORS[i % 2], "number": i / 2}
    return {
        "png": png(i),
        "cls": str(i % 2).encode(),
        "txt": (COLORS[i % 2] + "!" * (i % 5)).encode(),
        "json": json.dumps(label).encode(),
        "numbers.npy": npy(np.full(4, i, np.float32)),
    }


def write(path: Path, files: Mapping[str, bytes], **options: Any) -> None:
    with tarfile.open(path, "w", **options) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def named(samples: range) -> dict[str, bytes]:
    return {f"./{i:04}.{ending}": data for i in samples for ending, data in sample(i).items()}


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    """40 samples in 3 files for training, 12 for testing."""
    for number, part in enumerate((range(16), range(16, 17), range(17, 40))):
        write(tmp_path / f"train-{number:02}.tar", named(part))
    write(tmp_path / "test-00.tar", named(range(12)))
    return tmp_path


def load(folder: Path, **options: Any) -> TarDataLoader:
    given: dict[str, Any] = {"input": "png", "batch_size": 8, "shuffle": False, **options}
    paths = {
        name: str(folder / given.get(name, "train-*.tar"))
        for name in ("shards", "valid_shards", "test_shards")
        if name in given or name == "shards"
    }
    arguments: dict[str, Any] = given | paths
    return TarDataLoader(**arguments)


# --- what is read


def test_images_and_classes(tars: Path) -> None:
    loader = load(tars, mean=(0.0,), std=(1.0,))
    images, labels = whole(loader)
    assert (images.shape, labels.dtype) == ((40, 3, 8, 8), torch.int64)
    assert labels.tolist() == [i % 2 for i in range(40)]
    assert images[:, 2, 0, 0].mul(255 / 5).round().tolist() == list(range(40))
    assert loader.facts == {"num_classes": 2, "class_names": ["0", "1"], "class_counts": [20, 20]}
    cropped = load(tars, transforms=[CenterCrop(4), RandomCropFlip(1)], eval_transforms=[CenterCrop(4)],
                   validation_split=10)  # fmt: skip
    assert first(cropped)[0].shape[1:] == (3, 4, 4)
    validation = cropped.split_validation()
    assert validation is not None
    assert whole(validation)[1].tolist() == (validation.samples(np.arange(10)) % 2).tolist()


def test_names_with_braces(tars: Path) -> None:
    assert len(load(tars, shards="train-{00..02}.tar").dataset) == 40
    assert len(load(tars, shards="train-{0..0}{0..1}.tar").dataset) == 17
    with pytest.raises(DataError, match=r"there is no tar file .*train-03.tar"):
        load(tars, shards="train-{03..04}.tar")
    with pytest.raises(DataError, match="names no tar file; in braces, the smaller number comes first"):
        load(tars, shards="train-{2..0}.tar")


def test_other_endings(tars: Path) -> None:
    for target, key in (("txt", None), ("json", "color")):
        loader = load(tars, target=target, key=key, input="numbers.npy")
        assert whole(loader)[0].tolist() == [[float(i)] * 4 for i in range(40)]
        names = loader.facts["class_names"]
        assert [names[label].rstrip("!") for label in whole(loader)[1]] == [COLORS[i % 2] for i in range(40)]
    numbers = first(load(tars, target="json", key="number", task="regression"))[1]
    assert (numbers.dtype, numbers.tolist()) == (torch.float32, [i / 2 for i in range(8)])
    arrays = first(load(tars, target="numbers.npy"))[1]
    assert (arrays.dtype, arrays.shape) == (torch.float32, (8, 4))
    texts = load(tars, input="txt", shuffle=True, bucket=2)
    tokens, _ = first(texts)
    assert texts.facts["vocab_size"] == 257
    lengths = texts.dataset.lengths[texts.indices(0)]  # type: ignore[attr-defined]
    assert (tokens > 0).sum(dim=1).tolist() == lengths.tolist()
    assert lengths.max() - lengths.min() <= 4
    one = first(load(tars, input="txt"))[0][0]
    assert bytes((one[one > 0] - 1).tolist()) == b"red"


def test_files_of_a_sample_need_not_be_neighbors(tars: Path) -> None:
    files = dict(sorted(named(range(12)).items(), key=lambda item: item[0].rpartition(".")[2], reverse=True))
    write(tars / "train-00.tar", {"./notes.md": b"", "__meta__.json": b"{}", "a/b.c/0.png": png(1), "a/b.c/0.cls": b"1"}
          | {name.replace("./", "dir/").replace("png", "PNG"): data for name, data in files.items()
             if name.endswith(("png", "cls"))}, format=tarfile.PAX_FORMAT)  # fmt: skip
    loader = load(tars, shards="train-00.tar", input="jpg;png")
    assert whole(loader)[1].tolist() == [1] + [i % 2 for i in range(12)]
    assert loader.dataset.place(1).endswith("train-00.tar, sample 'dir/0000'")  # type: ignore[attr-defined]


def test_long_names(tars: Path) -> None:
    for format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        name = "한글/" + "x" * 150
        files = {f"{name}{i}.{ending}": data for i in range(8) for ending, data in sample(i).items()}
        write(tars / "train-00.tar", files, format=format)
        loader = load(tars, shards="train-00.tar")
        assert whole(loader)[1].tolist() == [0, 1] * 4
        assert loader.dataset.place(0).endswith(f"'{name}0'")  # type: ignore[attr-defined]


def test_shuffled_and_with_workers_each_sample_comes_once(tars: Path) -> None:
    loaders = [load(tars, shuffle=True, num_workers=count, transforms=[RandomCropFlip(2, True)]) for count in (0, 2)]
    streams = [loader.iter_steps(0) for loader in loaders]
    batches = [[next(stream) for _ in range(5)] for stream in streams]
    for stream in streams:
        stream.close()
    for one, two in zip(*batches, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.data, two.data, strict=True))
    assert sorted(index for batch in batches[0] for index in batch.indices.tolist()) == list(range(40))
    sent = pickle.dumps(loaders[0].dataset)
    assert len(sent) < 3000
    assert pickle.loads(sent)[7][1] == 1


def test_texts_that_are_all_empty_have_one_place(tars: Path) -> None:
    write(tars / "train-00.tar", {"a.txt": b"", "a.cls": b"0", "b.txt": b"", "b.cls": b"1"})
    assert first(load(tars, shards="train-00.tar", input="txt", batch_size=2))[0].tolist() == [[0], [0]]


def test_a_folder_of_tar_files(tars: Path) -> None:
    assert len(load(tars, shards=".").dataset) == 52


# --- the index


def indexes(folder: Path) -> list[Path]:
    return sorted((folder / ".tar_index").glob("[!.]*.npy"))


def test_the_index_is_made_once_and_anew_when_a_file_changes(tars: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scanned: list[str] = []
    scan = tar_index.scan

    def noted(path: Path, *args: Any) -> np.ndarray:
        scanned.append(path.name)
        return scan(path, *args)

    monkeypatch.setattr(tar_index, "scan", noted)
    for _ in range(2):
        load(tars)
        assert scanned == ["train-00.tar", "train-01.tar", "train-02.tar"]
    old = load(tars)
    write(tars / "train-01.tar", named(range(20, 23)))  # another size
    assert len(load(tars).dataset) == 42
    assert (len(scanned), len(indexes(tars))) == (6, 2)
    os.utime(tars / "train-01.tar", (1, 1))  # another time
    assert len(load(tars).dataset) == 42
    assert len(scanned) == 9
    with pytest.raises(SampleError, match=r"train-01.tar, sample '\./0016': the tar file was changed since this run"):
        list(old)
    load(tars, index_dir=str(tars / "elsewhere"))
    assert len(list((tars / "elsewhere").glob("*.npy"))) == 1


def test_two_processes_make_one_index(tars: Path) -> None:
    context = multiprocessing.get_context("fork")
    gate = context.Barrier(3)

    def make() -> None:
        gate.wait()
        assert len(load(tars).dataset) == 40

    processes = [context.Process(target=make) for _ in range(2)]
    for process in processes:
        process.start()
    gate.wait()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(indexes(tars)) == 1


@pytest.mark.parametrize("moment", ["scan", "np.save", "os.replace"])
def test_a_kill_leaves_no_index_that_is_used(moment: str, tars: Path) -> None:
    def die(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def make() -> None:
        import utils.files

        owner, name = {
            "scan": (tar_index, "scan"),
            "np.save": (np, "save"),
            "os.replace": (utils.files.os, "replace"),
        }[moment]
        setattr(owner, name, die)
        load(tars)

    process = multiprocessing.get_context("fork").Process(target=make)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert indexes(tars) == []
    assert whole(load(tars))[1].tolist() == [i % 2 for i in range(40)]


def test_the_index_cannot_be_written(tars: Path) -> None:
    (tars / ".tar_index").write_text("")
    with pytest.raises(
        DataError, match=r"index of the tar files cannot be written to .*; set data_loader.args.index_d"
    ):
        load(tars)


# --- bad files


@pytest.mark.parametrize(
    "change, words",
    [
        (None, r"there is no tar file .*train-00.tar; give one, a folder"),
        (b"", r"train-00.tar is not a complete tar file: empty file; copy or create it again"),
        (b"no tar" * 200, r"train-00.tar is not a complete tar file: .*; copy or create it again"),
        (700, r"train-00.tar is not a complete tar file: unexpected end of data; copy or create it again"),
        (-10240, r"train-00.tar is not a complete tar file: (no empty block follows|unexpected end)"),
        ("w:gz", r"train-00.tar is not a complete tar file: .*; unpack it first: gunzip"),
        ({}, r"train-00.tar has no samples; give tar files with png and cls files"),
        ({"v1.a.png": b"", "v1.a.cls": b"1"}, r"has no samples; .*: its first one is 'v1', with .a.png, .a.cls"),
        ({"a.png": b"", "b.cls": b"1"}, r"train-00.tar: the sample 'a' has no .cls, but .png; add it, or name another"),
        ({"a.jpg": b"", "a.cls": b"1"}, r"train-00.tar: the sample 'a' has no .png, but .jpg, .cls"),
        ({"a.png": b"", "a.cls": b""}, r"train-00.tar, sample 'a', a.cls: it holds no label: it is empty"),
        ({"a.png": b"", "a.cls": b"nan"}, r"train-00.tar, sample 'a', a.cls: it holds no label: it is nan"),
        ({"a.png": b"", "a.cls": b"\xff"}, r"train-00.tar, sample 'a', a.cls: it holds no label: 'utf-8' codec"),
        ({"a.png": b"", "a.cls": b"1"}, r"train-00.tar: all training samples are of one class, '1'"),
        (
            [("a.png", b""), ("a.cls", b"1"), ("a.cls", b"2")],
            r"train-00.tar: the sample 'a' has .cls twice; remove one",
        ),
    ],
)
def test_wrong_tar_files(change: Any, words: str, tars: Path) -> None:
    path = tars / "train-00.tar"
    if change is None:
        path.unlink()
    elif isinstance(change, bytes):
        path.write_bytes(change)
    elif isinstance(change, int):
        path.write_bytes(path.read_bytes()[:change])
    elif isinstance(change, str):
        with tarfile.open(path, "w:gz") as tar:
            tar.addfile(tarfile.TarInfo("a.png"))
    elif isinstance(change, dict):
        write(path, change)
    else:
        with tarfile.open(path, "w") as tar:
            for name, data in change:
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    with pytest.raises(DataError, match=words) as error:
        load(tars, shards="train-00.tar", batch_size=1)
    assert error.value.exit_code == 2
    assert "\n" not in str(error.value)
    assert indexes(tars) == [] or "one class" in words


@pytest.mark.parametrize("cut", range(512, 10240, 512))
def test_a_tar_file_that_is_cut_off_anywhere(cut: int, tars: Path) -> None:
    path = tars / "train-01.tar"
    whole_file = path.read_bytes()
    if cut >= -(-len(whole_file.rstrip(b"\0")) // 512) * 512 + 512:
        return  # only padding is lost
    path.write_bytes(whole_file[:cut])
    with pytest.raises(DataError, match=r"train-01.tar is not a complete tar file|train-01.tar: the sample"):
        load(tars)


@pytest.mark.parametrize(
    "files, options, words",
    [
        (
            {"a.png": b"no image", "a.cls": b"0"},
            {},
            r"train-00.tar, sample 'a': the file is not an image that Pillow can",
        ),
        ({"a.png": b"", "a.cls": b"0"}, {}, r"sample 'a': the file is not an image .*: it is empty"),
        ({"a.png": png(0, 4), "a.cls": b"0"}, {}, r"(?s)shapes or types differ.*\[3, 4, 4\]"),
        ({"a.npy": b"no", "a.cls": b"0"}, {"input": "npy"}, r"train-00.tar, sample 'a': "),
        (
            {"a.npy": npy(np.array([{}])), "a.cls": b"0"},
            {"input": "npy"},
            r"sample 'a': Object arrays cannot be loaded",
        ),
    ],
)
def test_samples_that_cannot_be_read(files: Any, options: Any, words: str, tars: Path) -> None:
    more = {f"b.{ending.rpartition('.')[2]}": data for ending, data in sample(1).items()}
    write(tars / "train-00.tar", {**files, **more})
    with pytest.raises(SampleError, match=words):
        list(load(tars, shards="train-00.tar", batch_size=2, **options))


@pytest.mark.parametrize(
    "options, words",
    [
        ({"input": "mp4"}, "input is mp4; give npy, txt, or the ending of images"),
        ({"input": "png;txt"}, "input is png;txt; give npy, txt, or"),
        ({"target": "png"}, "target is png; give cls, txt, json or npy"),
        ({"target": "json"}, "target is json and key is None; give key for json alone"),
        ({"target": "json", "key": "size"}, r"train-00.tar, sample '\./0000', .*json: it has no entry 'size'; set key"),
        (
            {"target": "json", "key": "color", "task": "regression"},
            r"json: it holds no number: could not convert string",
        ),
        ({"training": False}, "there is no test data; set data_loader.args.test_shards"),
        ({"shards": "none-*.tar"}, r"there is no tar file .*none-\*.tar; give one, a folder"),
    ],
)
def test_options_that_do_not_fit(options: Any, words: str, tars: Path) -> None:
    with pytest.raises(UsageError, match=words):
        load(tars, **options)


def test_a_class_that_is_not_in_training(tars: Path) -> None:
    facts = load(tars).facts
    write(tars / "test-00.tar", {"a.png": png(0), "a.cls": b"7"})
    for options in ({"training": False, "facts": facts, "test_shards": "test-00.tar"}, {"valid_shards": "test-00.tar"}):
        with pytest.raises(DataError, match=r"test-00.tar, sample 'a': the class '7' is in no training sample"):
            load(tars, **options)


# --- a whole run


def test_a_run_learns_and_test_py_reads_the_test_files(tiny: Tiny, tars: Path) -> None:
    loader = f"{{shards: '{tars}/train-*.tar', test_shards: '{tars}/test-*.tar', input: png, batch_size: 8, " \
             "validation_split: 8, num_workers: 0}"  # fmt: skip
    options = [
        f"data_loader={{type: TarDataLoader, args: {loader}}}",
        "arch={type: MLP, args: {in_features: 192, hidden: [4]}}",
        "trainer={epochs: 4, limit_batches: null}",
    ]
    tiny.train(*options)
    assert tiny.points("valid")[-1]["accuracy"] == 1
    testing.main(["-r", str(find_checkpoint(str(tiny.folder / "run")))])
    assert tiny.points("test")[0]["accuracy"] == 1
