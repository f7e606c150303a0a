"""Mapped .npy files: values, several files as one, what is learned from the training rows alone, memory, bad files."""

import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import test as testing
from data_loader.arrays import ArrayDataLoader, MappedFiles
from tests.data_loader.batches import first, whole
from tests.tiny import Tiny, tiny
from utils.errors import DataError, SampleError, UsageError
from utils.run_folder import find_checkpoint

__all__ = ["tiny"]


def numbers(n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Rows of 4 numbers, of three classes."""
    classes = np.arange(n) % 3
    noise = np.random.default_rng(0).normal(size=(n, 4))
    return (noise + 10 * classes[:, None] + 5).astype(np.float32), classes.astype(np.uint8)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    inputs, targets = numbers()
    np.save(tmp_path / "x.npy", inputs)
    np.save(tmp_path / "y.npy", targets)
    return tmp_path


def load(folder: Path, **options: Any) -> ArrayDataLoader:
    args: dict[str, Any] = {"inputs": "x.npy", "targets": "y.npy"} | options
    paths = {name: str(folder / value) for name, value in args.items() if str(value).endswith((".npy", "_files"))}
    return ArrayDataLoader(**({"batch_size": 12, "shuffle": False} | args | paths))


def test_values_and_facts(files: Path) -> None:
    loader = load(files)
    inputs, targets = whole(loader)
    assert torch.equal(inputs, torch.from_numpy(numbers()[0]))
    assert (targets.dtype, targets.tolist()) == (torch.int64, numbers()[1].tolist())
    assert loader.facts["class_counts"] == [20, 20, 20]
    assert (loader.facts["class_names"], loader.facts["in_features"]) == (["0", "1", "2"], 4)
    assert load(files, class_names=["a", "b", "c"]).facts["class_names"] == ["a", "b", "c"]
    np.save(files / "y.npy", numbers()[0][:, 0].astype(np.float64))
    targets = first(load(files))[1]
    assert (targets.dtype, targets.shape) == (torch.float32, (12,))


@pytest.mark.parametrize("dtype", ["<f8", ">f4", "<f2", ">i2", "u1", "<i8", "?"])
def test_dtypes(dtype: str, files: Path) -> None:
    values = np.arange(120).reshape(60, 2).astype(dtype)
    np.save(files / "x.npy", values)
    np.save(files / "turned.npy", np.asfortranarray(values))
    inputs = whole(load(files))[0]
    assert inputs.dtype == (torch.float32 if values.dtype.kind in "fb" else torch.int64)
    assert inputs.tolist() == values.tolist() == whole(load(files, inputs="turned.npy"))[0].tolist()


def test_targets_in_a_column_are_classes(files: Path) -> None:
    np.save(files / "y.npy", numbers()[1][:, None])
    loader = load(files)
    assert whole(loader)[1].tolist() == numbers()[1].tolist()
    assert loader.facts["class_counts"] == [20, 20, 20]
    np.save(files / "x.npy", np.full((60, 2), 2**63, np.uint64))
    with pytest.raises(SampleError, match="which int64 cannot hold"):
        whole(load(files))


def test_a_folder_is_one_array(files: Path) -> None:
    (files / "x_files").mkdir()
    for name, part in (("2", slice(0, 7)), ("10", slice(7, 30)), ("11", slice(30, 60))):
        np.save(files / f"x_files/{name}.npy", numbers()[0][part])
    loaders = [load(files, inputs=name, shuffle=True, standardize=True) for name in ("x.npy", "x_files")]
    (one, classes), (two, _) = (whole(loader) for loader in loaders)
    assert torch.equal(one, two)
    assert len(classes) == 60
    assert loaders[0].facts == loaders[1].facts


def test_standardized_by_the_training_rows_alone(files: Path) -> None:
    loader = load(files, standardize=True, validation_split=13)
    rows = loader.samples(np.arange(47))
    values = numbers()[0].astype(np.float64)
    mean, std = values[rows].mean(axis=0), values[rows].std(axis=0)
    np.testing.assert_allclose(loader.facts["arrays"]["scale"]["mean"], mean, rtol=1e-12)
    np.testing.assert_allclose(loader.facts["arrays"]["scale"]["std"], std, rtol=1e-12)
    assert np.abs(mean - values.mean(axis=0)).min() > 1e-3  # all rows would give others
    np.testing.assert_allclose(whole(loader)[0], ((values - mean) / std)[rows], atol=1e-6)
    again = {"test_inputs": "x.npy", "test_targets": "y.npy", "training": False, "standardize": True}
    test = load(files, facts=loader.facts, **again)
    np.testing.assert_allclose(whole(test)[0], (values - mean) / std, atol=1e-6)
    with pytest.raises(UsageError, match="which is missing; give facts"):
        load(files, **again)


def test_workers_are_sent_paths(files: Path) -> None:
    np.save(files / "x.npy", np.zeros((60, 10_000), np.float32))
    rows = load(files).dataset
    rows[0]
    sent = pickle.dumps(rows)
    assert len(sent) < 2000
    assert pickle.loads(sent)[59][1] == 2


def test_memory_is_flat_over_an_epoch(tmp_path: Path) -> None:
    """200 MB: what a process holds for itself grows by less than 8 MB; the pages of the file are the system's cache."""
    mapped = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (50_000, 1000))
    mapped[::100] = 1
    del mapped
    np.save(tmp_path / "y.npy", np.arange(50_000) % 2)
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe()
    process = context.Process(target=grown, args=(theirs, tmp_path))
    process.start()
    most = mine.recv()
    process.join()
    assert most < 8


def grown(pipe: Any, folder: Path) -> None:
    """By how many MB the memory of this process grows over an epoch, without pages of files."""
    before, most = own_memory(), 0.0
    stream = load(folder, batch_size=50, shuffle=True).iter_steps(0)
    for step, _ in zip(range(1000), stream, strict=False):
        if step % 50 == 0:
            most = max(most, own_memory() - before)
    pipe.send(most)


def own_memory() -> float:
    """MB of this process that are no pages of files."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("x", None, r"there is no file or folder .*x.npy; set inputs and targets"),
        ("x", b"", r"x.npy is no .npy file: .*; write it by numpy.save"),
        ("x", b"1,2\n3,4\n", r"x.npy is no .npy file: "),
        ("x", -7, r"x.npy is cut off or damaged: 953 bytes after its header, an array \[60, 4\] of float32 has 960"),
        ("x", 7, r"x.npy is cut off or damaged: 967 bytes"),
        ("x", np.zeros((0, 4)), r"x.npy has the shape \[0, 4\], so no rows"),
        ("x", np.array(3.0), r"x.npy has the shape \[\], so no rows"),
        ("x", np.zeros((59, 4)), r"x.npy has 59 rows and .*y.npy 60; give files with a target for each row"),
        ("x", np.zeros((60, 2), complex), r"x.npy is of dtype complex128; give floats, integers or booleans"),
        ("x", np.full(60, "a"), r"x.npy is of dtype <U1; give floats"),
        ("x", np.array([{}] * 60), r"x.npy is of dtype object; give floats"),
        ("x", np.zeros(60, "M8[s]"), r"x.npy is of dtype datetime64\[s\]; give floats"),
        ("x", np.full((60, 2), np.nan), r"x.npy: row 0 has a number that is infinite or not a number"),
        ("y", np.zeros(60, int), r"y.npy: all training rows are of one class, 0; there is nothing to learn"),
        (
            "y",
            np.arange(60) * 1000,
            r"y.npy has classes up to 59,000 in 60 training rows; number them 0, .*floats",
        ),
        ("y", np.where(np.arange(60) == 5, -1, 1), r"y.npy, row 5: the class -1; the 2 classes of the training rows"),
    ],
)
def test_bad_files(name: str, content: Any, words: str, files: Path) -> None:
    path = files / f"{name}.npy"
    if content is None:
        path.unlink()
    elif isinstance(content, int):
        path.write_bytes(path.read_bytes()[:content] if content < 0 else path.read_bytes() + b"0" * content)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content, allow_pickle=True)
    with pytest.raises(DataError, match=words) as error:
        load(files, standardize=True)
    assert error.value.exit_code == 2
    assert "\n" not in str(error.value)


def test_files_that_do_not_fit(files: Path) -> None:
    (files / "x_files").mkdir()
    with pytest.raises(DataError, match=r"there are no \.npy files in"):
        load(files, inputs="x_files")
    np.save(files / "x_files/a.npy", np.zeros((30, 4), np.float32))
    np.save(files / "x_files/b.npy", np.zeros((30, 5), np.float32))
    with pytest.raises(DataError, match=r"b.npy has rows \[5\] of float32, but a.npy \[4\] of float32; give files of"):
        load(files, inputs="x_files")
    np.save(files / "x_files/b.npy", np.zeros((30, 4), np.float64))
    with pytest.raises(DataError, match=r"b.npy has rows \[4\] of float64, but a.npy \[4\] of float32"):
        load(files, inputs="x_files")
    facts = load(files, standardize=True).facts
    for name, values, words in (
        ("y", np.full(60, 3), r"y.npy, row 0: the class 3; the 3 classes of the training rows are 0, 1, 2"),
        ("y", np.zeros(60), r"y.npy has numbers \(float64\), other than the training data"),
        ("x", np.zeros((60, 5)), r"x.npy has rows \[5\], those of the training data are \[4\]"),
    ):
        np.save(files / "x.npy", numbers()[0])
        np.save(files / f"{name}.npy", values)
        with pytest.raises(DataError, match=words):
            load(files, training=False, facts=facts, test_inputs="x.npy", test_targets="y.npy")
        np.save(files / "y.npy", numbers()[1])
    for options, message in (
        ({"training": False}, "there is no test data; set test_inputs and test_targets"),
        ({"valid_inputs": "x.npy"}, "give both valid_inputs and valid_targets, or none"),
    ):
        with pytest.raises(UsageError, match=message):
            load(files, **options)


def test_version_2_of_the_format(files: Path) -> None:
    with open(files / "x.npy", "wb") as file:
        np.lib.format.write_array(file, numbers()[0], version=(2, 0))
    assert MappedFiles([str(files / "x.npy")]).rows(np.array([3])).tolist() == numbers()[0][[3]].tolist()


def test_a_run_learns_and_test_py_reads_by_what_was_learned(tiny: Tiny, files: Path) -> None:
    x, y = files / "x.npy", files / "y.npy"
    loader = f"{{inputs: {x}, targets: {y}, test_inputs: {x}, test_targets: {y}, standardize: true, batch_size: 12, " \
             "validation_split: 12}"  # fmt: skip
    options = [f"data_loader={{type: ArrayDataLoader, args: {loader}}}", "arch={type: MLP, args: {hidden: [8]}}",
               "trainer={epochs: 20, limit_batches: null}"]  # fmt: skip
    tiny.train(*options)
    assert tiny.points("valid")[-1]["accuracy"] == 1
    testing.main(["-r", str(find_checkpoint(str(tiny.folder / "run")))])
    assert tiny.points("test")[0]["accuracy"] == 1
