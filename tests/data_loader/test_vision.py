"""MNIST, CIFAR-10 and image folders: values, classes, and the errors for missing or broken data."""

import importlib.util
import pickle
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from data_loader import vision
from data_loader.engine.images.in_memory import IMAGENET_MEAN, IMAGENET_STD
from data_loader.transforms import CenterCrop, RandomCropFlip, RandomResizedCrop
from data_loader.vision import (
    Cifar10DataLoader,
    ImageFiles,
    ImageFolderDataLoader,
    ImageTableDataLoader,
    MnistDataLoader,
)
from tests.data_loader.batches import first, whole
from tests.tiny import tiny
from utils.errors import DataError, SampleError, UsageError

__all__ = ["tiny"]

ROOT = Path(vision.__file__).parent.parent


def write_idx(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes([0, 0, 8, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


@pytest.fixture
def small_mnist(tmp_path: Path) -> Path:
    """A data_dir with files in the format of MNIST: 50 + 20 images of noise."""
    numbers = np.random.default_rng(0)
    for part, n in (("train", 50), ("t10k", 20)):
        write_idx(tmp_path / f"MNIST/raw/{part}-images-idx3-ubyte", numbers.integers(0, 256, (n, 28, 28)))
        write_idx(tmp_path / f"MNIST/raw/{part}-labels-idx1-ubyte", np.arange(n) % 10)
    return tmp_path


def test_mnist_takes_the_2020_config(small_mnist: Path) -> None:
    loader = MnistDataLoader(
        data_dir=str(small_mnist), batch_size=16, shuffle=True, validation_split=0.1, num_workers=2
    )
    images, labels = first(loader)
    assert images.shape[1:] == (1, 28, 28)
    assert len(images) == len(labels)
    assert loader.steps_per_epoch == 3  # 45 samples
    validation = loader.split_validation()
    assert validation is not None
    assert len(whole(validation)[0]) == 5


def test_mnist_values(small_mnist: Path) -> None:
    images, labels = whole(MnistDataLoader(str(small_mnist), 10, shuffle=False, training=False))
    raw = np.frombuffer((small_mnist / "MNIST/raw/t10k-images-idx3-ubyte").read_bytes()[16:], np.uint8)
    expected = (torch.from_numpy(raw.copy()).view(20, 1, 28, 28) / 255 - 0.1307) / 0.3081
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-5)
    assert labels.tolist() == [*range(10)] * 2


def test_reading_mnist_and_image_files_does_not_import_torchvision(small_mnist: Path, flowers: Path) -> None:
    code = (
        "import sys; from data_loader.vision import ImageFolderDataLoader, MnistDataLoader; "
        f"next(iter(MnistDataLoader({str(small_mnist)!r}, 10))); "
        f"next(iter(ImageFolderDataLoader({str(flowers)!r}, 4))); assert 'torchvision' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_real_mnist(mnist_dir: Path) -> None:
    images, labels = whole(MnistDataLoader(str(mnist_dir), 1000, shuffle=False, training=False))
    assert images.shape == (10000, 1, 28, 28)
    assert labels[:8].tolist() == [7, 2, 1, 0, 4, 1, 4, 9]
    assert abs(images.mean()) < 0.02


@pytest.mark.parametrize("name, loader", [("MNIST", MnistDataLoader), ("CIFAR10", Cifar10DataLoader)])
def test_missing_data_that_cannot_be_downloaded(name, loader, tmp_path: Path, monkeypatch) -> None:
    import torchvision.datasets

    def offline(root: str, download: bool) -> None:
        raise URLError("no network")

    offline.__name__ = name
    for attribute in ("base_folder", "filename"):
        setattr(offline, attribute, getattr(getattr(torchvision.datasets, name), attribute, None))
    monkeypatch.setattr(torchvision.datasets, name, offline)
    with pytest.raises(DataError) as error:
        loader(str(tmp_path / "nowhere"), 10)
    message = str(error.value)
    assert f"{name} is not in {tmp_path / 'nowhere'} and could not be downloaded: <urlopen error no network>" in message
    assert "train-images-idx3-ubyte" in message or "cifar-10-python.tar.gz (unpacked)" in message
    assert "set data_loader.args.data_dir" in message


@pytest.mark.parametrize("keep", [0, 3, 1000])
def test_a_truncated_mnist_file_is_named(small_mnist: Path, keep: int) -> None:
    path = small_mnist / "MNIST/raw/train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(
        DataError, match=r"train-images-idx3-ubyte: not a complete IDX file .*; delete it and run again"
    ):
        MnistDataLoader(str(small_mnist), 10)


def test_cifar10(tmp_path: Path, monkeypatch) -> None:
    from torchvision.datasets import CIFAR10

    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (30, 3 * 32 * 32), dtype=np.uint8)
    for name in ("data_batch_1", "test_batch"):
        (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": [i % 10 for i in range(30)]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    monkeypatch.setattr(CIFAR10, "train_list", [["data_batch_1", None]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", None]])
    monkeypatch.setattr(CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": None})

    images, labels = whole(Cifar10DataLoader(str(tmp_path), 10, shuffle=False, training=False))
    red = (torch.from_numpy(pixels[:, :1024]).view(30, 32, 32) / 255 - 0.4914) / 0.247
    torch.testing.assert_close(images[:, 0], red, rtol=0, atol=1e-5)
    assert labels.tolist() == [*range(10)] * 3
    loader = Cifar10DataLoader(str(tmp_path), 10, transforms=[RandomCropFlip(crop=4, flip=True)])
    assert first(loader)[0].shape == (10, 3, 32, 32)
    assert loader.facts["class_names"][3:5] == ["cat", "deer"]
    assert loader.facts["class_counts"] == [3] * 10


@pytest.fixture
def flowers(tmp_path: Path) -> Path:
    """Class folders of small images: class `a` is dark, `b` bright; sizes and formats vary."""
    for folder, n in (("train", 6), ("test", 2)):
        for name, level in (("b", 250), ("a", 5)):
            (tmp_path / folder / name / "deeper").mkdir(parents=True)
            for i in range(n):
                path = tmp_path / folder / name
                Image.new("RGB", (40, 30 + i), (level, level, level)).save(path / f"{i}.JPG")
                Image.new("L", (40, 50), level).save(path / "deeper" / f"{i}.png")
            (path / "notes.txt").write_text("not an image")
    return tmp_path


def test_image_folder(flowers: Path) -> None:
    loader = ImageFolderDataLoader(str(flowers), batch_size=6, size=16, validation_split=6)
    assert loader.dataset.samples[0] == (str(flowers / "train" / "a" / "0.JPG"), 0)  # type: ignore[attr-defined]
    images, labels = first(loader)
    assert images.shape == (6, 3, 16, 16)
    assert torch.equal(images[:, 0].mean(dim=(1, 2)) > 0, labels == 1)
    assert len(loader.samples) == 18
    images, labels = whole(ImageFolderDataLoader(str(flowers), batch_size=8, size=16, training=False))
    assert labels.bincount().tolist() == [4, 4]
    bright = ((250 / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225]))[:, None, None]
    torch.testing.assert_close(images[labels == 1], bright.expand(4, 3, 16, 16), rtol=0, atol=0.02)


def test_image_folder_states_its_classes(flowers: Path) -> None:
    """The same classes for testing, even if a class has no folder there."""
    (flowers / "test" / "a").rename(flowers / "elsewhere")
    (flowers / "train" / "b" / "0.JPG").unlink()
    classes = {"num_classes": 2, "class_names": ["a", "b"]}
    assert ImageFolderDataLoader(str(flowers), 4).facts == classes | {"class_counts": [12, 11]}
    assert ImageFolderDataLoader(str(flowers), 4, training=False).for_testing().facts == classes


def test_image_folder_with_workers_sees_the_same(flowers: Path) -> None:
    loaders = [ImageFolderDataLoader(str(flowers), 12, size=16, num_workers=workers) for workers in (0, 2)]
    (one, one_labels), (two, two_labels) = map(first, loaders)
    assert torch.equal(one, two)
    assert torch.equal(one_labels, two_labels)


def test_evaluation_sees_what_torchvision_shows(tmp_path: Path) -> None:
    """The same pixels as Resize and CenterCrop, and within rounding the same numbers as ToTensor and Normalize."""
    numbers = np.random.default_rng(0)
    for i, (width, height) in enumerate([(256, 256), (300, 201), (201, 300), (500, 375), (375, 500), (90, 700)]):
        folder = tmp_path / "train" / "a"
        folder.mkdir(parents=True, exist_ok=True)
        coarse = numbers.integers(0, 256, (12, 12, 3)).astype(np.uint8)
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(folder / f"{i}.jpg")
    loader = ImageFolderDataLoader(str(tmp_path), 6, training=False, test_folder="train")
    resize = v2.Compose([v2.PILToTensor(), v2.Resize(256), v2.CenterCrop(224)])
    shown = torch.stack([resize(Image.open(path)) for path, _ in loader.dataset.samples])  # type: ignore[attr-defined]
    seen = torch.stack([loader.dataset[i][0] for i in range(6)])  # type: ignore[index]
    assert torch.equal(seen, shown)
    expected = v2.functional.normalize(shown / 255, list(IMAGENET_MEAN), list(IMAGENET_STD))
    torch.testing.assert_close(whole(loader)[0], expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "I;16", "1"])
def test_images_of_every_kind_come_in_rgb(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    grey = Image.new("L", (20, 20), 255)
    (Image.fromarray(np.full((20, 20), 65535, np.uint16)) if mode == "I;16" else grey.convert(mode)).save(path)
    with Image.open(path) as file:
        assert file.mode in {mode, mode.split(";")[0]}  # Pillow before 11 opens I;16 as I
    for transform in (CenterCrop(14), RandomResizedCrop(14)):
        image, label = ImageFiles([(str(path), 3)], transform)[0]
        assert (image.shape, image.dtype, label) == ((3, 14, 14), torch.uint8, 3)
        assert image.min() > 250


def test_images_are_turned_upright(tmp_path: Path) -> None:
    """EXIF's orientation 6: the camera was turned, and the right of the picture is below."""
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[:, 16:] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture).save(tmp_path / "turned.jpg", exif=exif)
    image, _ = ImageFiles([(str(tmp_path / "turned.jpg"), 0)], CenterCrop(28))[0]
    assert image[:, :12].max() < 20
    assert image[:, 16:].min() > 235


def test_a_broken_image_is_named(flowers: Path) -> None:
    broken = flowers / "test" / "b" / "1.JPG"
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(SampleError, match=str(broken)):
        whole(ImageFolderDataLoader(str(flowers), batch_size=8, training=False))


def test_missing_folders(flowers: Path) -> None:
    with pytest.raises(DataError, match=r"There is no folder .*/elsewhere; set data_loader\.args\.data_dir"):
        ImageFolderDataLoader(str(flowers / "elsewhere"))
    Image.new("RGB", (4, 4)).save(flowers / "test" / "new.jpg")
    (flowers / "test" / "c").mkdir()
    (flowers / "test" / "new.jpg").rename(flowers / "test" / "c" / "new.jpg")
    with pytest.raises(DataError, match=r"has classes that the training data does not have: c"):
        ImageFolderDataLoader(str(flowers), training=False)
    for path in list(flowers.rglob("*.JPG")) + list(flowers.rglob("*.png")):
        path.unlink()
    with pytest.raises(DataError, match=r"No images \(\.bmp, .*\) in the class folders of .*: 2 no images \(2 \.txt\)"):
        ImageFolderDataLoader(str(flowers))


def test_the_validation_folder_validates(flowers: Path) -> None:
    (flowers / "test").rename(flowers / "val")
    loader = ImageFolderDataLoader(str(flowers), batch_size=6, size=16)
    valid = loader.split_validation()
    assert len(loader.samples) == 24
    assert whole(valid)[1].bincount().tolist() == [4, 4]


def test_a_run_is_tested_without_its_training_folder(flowers: Path, tiny: Any, capsys: Any) -> None:
    """The classes are in the checkpoint; their numbers stay, though one has no test images."""
    args = f"{{data_dir: {flowers}, batch_size: 8, size: 16, validation_split: 4, num_workers: 0}}"
    arch = "{type: ConvNet, args: {in_channels: 3, widths: [8]}}"
    options = [f"data_loader={{type: ImageFolderDataLoader, args: {args}}}", f"arch={arch}", "optimizer.args.lr=0.05"]
    trainer = tiny.train(*options, "trainer.epochs=6", "trainer.limit_batches=null")
    assert trainer.config.facts["class_names"] == ["a", "b"]
    shutil.rmtree(flowers / "train")
    shutil.rmtree(flowers / "test" / "a")
    spec = importlib.util.spec_from_file_location("test_script", ROOT / "test.py")
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    module.main(["-r", str(tiny.folder / "run")])
    assert tiny.points("test")[0]["accuracy"] == 1.0
    assert "4 images of 2 classes (a 0, b 4)" in capsys.readouterr().out


# --- tables


def write_table(path: Path, rows: list[list[Any]], separator: str = ",") -> None:
    path.write_text("\n".join(separator.join(map(str, row)) for row in rows) + "\n", encoding="utf-8")


@pytest.fixture
def table(flowers: Path) -> Path:
    """The images of `flowers`, all in one folder, with tables of what they show."""
    (flowers / "flat").mkdir()
    for part in ("train", "test"):
        rows: list[list[Any]] = [["id", "name", "tags", "dark", "bright", "level", "part"]]
        for path in sorted((flowers / part).rglob("*.*g"), key=lambda path: path.parts) + sorted(
            (flowers / part).rglob("*.JPG")
        ):
            name = path.relative_to(flowers / part).parts[0]
            stem = f"{part}-{name}-{path.stem}-{path.suffix[1:].lower()}"
            path.rename(flowers / "flat" / f"{stem}{path.suffix}")
            b = name == "b"
            rows.append([stem, name, f"{name} all" if b else "all", int(not b), int(b), 250 if b else 5, part])
        write_table(flowers / f"{part}.csv", rows)
    return flowers


COMMON: dict[str, Any] = {"batch_size": 6, "size": 16, "image": "id", "image_folder": "flat"}


def test_a_table_gives_the_same_bits_as_class_folders(flowers: Path) -> None:
    folder = ImageFolderDataLoader(str(flowers), 6, size=16)
    files = [(Path(path).relative_to(flowers).as_posix(), label) for path, label in folder.dataset.samples]  # type: ignore[attr-defined]
    write_table(flowers / "train.csv", [["file", "kind"], *([file, "ab"[label]] for file, label in files)])
    listed = ImageTableDataLoader(str(flowers), image="file", label="kind", batch_size=6, size=16)
    assert listed.facts == folder.facts
    for step in range(4):
        for one, two in zip(first(folder, step), first(listed, step), strict=True):
            assert torch.equal(one, two)


def test_a_table_of_files_without_suffix_in_one_folder(table: Path) -> None:
    loader = ImageTableDataLoader(str(table), label="name", test_table="test.csv", training=False, **COMMON)
    images, labels = whole(loader)
    assert labels.bincount().tolist() == [4, 4]
    assert torch.equal(images[:, 0].mean(dim=(1, 2)) > 0, labels == 1)
    with pytest.raises(
        DataError, match=r"train\.csv has no test rows; give .*test_table=test\.csv, or a column that says"
    ):
        ImageTableDataLoader(str(table), label="name", training=False, **COMMON)


def test_several_labels_and_numbers(table: Path) -> None:
    loader = ImageTableDataLoader(str(table), labels=["dark", "bright"], valid_table="test.csv", **COMMON)
    images, labels = first(loader)
    assert (labels.shape, labels.dtype) == ((6, 2), torch.float32)
    assert torch.equal(images[:, 0].mean(dim=(1, 2)) > 0, labels[:, 1] == 1)
    assert loader.facts == {"num_classes": 2, "class_names": ["dark", "bright"], "class_counts": [12, 12]}
    assert whole(loader.split_validation())[1].sum(dim=0).tolist() == [4, 4]
    tags = ImageTableDataLoader(str(table), labels="tags", **COMMON)
    assert tags.facts == {"num_classes": 2, "class_names": ["all", "b"], "class_counts": [24, 12]}
    assert first(tags)[1][:, 0].tolist() == [1.0] * 6
    numbers = ImageTableDataLoader(str(table), targets="level", **COMMON)
    images, levels = first(numbers)
    assert (levels.shape, levels.dtype) == ((6, 1), torch.float32)
    assert set(levels[:, 0].tolist()) <= {5.0, 250.0}
    assert numbers.facts == {"num_classes": 1, "target_names": ["level"]}


def test_a_column_of_the_table_splits_or_stratifies(table: Path) -> None:
    lines = (table / "train.csv").read_text().splitlines() + (table / "test.csv").read_text().splitlines()[1:]
    (table / "all.csv").write_text("\n".join(lines).replace(",test", ",dev"))
    loader = ImageTableDataLoader(str(table), "all.csv", label="name", split="part", **COMMON)
    assert (len(loader.samples), len(whole(loader.split_validation())[1])) == (24, 8)
    with pytest.raises(DataError, match=r"all\.csv: no row says 'test' in column 'part'"):
        ImageTableDataLoader(str(table), "all.csv", label="name", split="part", training=False, **COMMON)
    even = ImageTableDataLoader(str(table), label="name", stratify="level", validation_split=4, **COMMON)
    assert whole(even.split_validation())[1].bincount().tolist() == [2, 2]


@pytest.mark.parametrize(
    "given, cell, message",
    [
        ({"label": "nam"}, None, r"train\.csv has no column 'nam' \(did you mean 'name'\?\); it has: id, name, tags, "),
        ({"label": "name"}, ("name", ""), r"train\.csv, row 3, column 'name': nothing; give a label"),
        ({"label": "name"}, ("id", "x"), r"column 'id': 1 of 24 images are not in .*/flat:\n  row 3: 'x'\nRemove the"),
        ({"labels": ["dark"]}, ("dark", "2"), r"row 3, column 'dark': '2'; give 0 or 1"),
        ({"targets": ["level"]}, ("level", "n/a"), r"row 3, column 'level': 'n/a'; give a number"),
        ({"targets": ["level"]}, ("level", "nan"), r"row 3, column 'level': 'nan'; give a number"),
        ({"targets": ["level"]}, ("level", "1e39"), r"row 3, column 'level': '1e39'; give a number"),
        ({"label": "name"}, ("name", "NaN"), r"row 3, column 'name': 'NaN'; give a label"),
        (
            {"label": "name"},
            ("name", "a,b"),
            r"row 3: 8 fields, more than the 7 of the header; put a field that contains ','",
        ),
        ({"label": "name", "targets": "level"}, None, "label and targets given; give one of them"),
        ({}, None, "none of label, labels and targets given"),
    ],
)
def test_what_is_wrong_in_a_table_is_named(table: Path, given: dict[str, Any], cell: Any, message: str) -> None:
    path = table / "train.csv"
    lines = [line.split(",") for line in path.read_text().splitlines()]
    if cell:
        lines[2][lines[0].index(cell[0])] = cell[1]
    write_table(path, lines)
    with pytest.raises(UsageError, match=message):
        ImageTableDataLoader(str(table), **given, **COMMON)


@pytest.mark.parametrize(
    "given, names",
    [
        (["10", "2", "-1"], ["-1", "2", "10"]),
        (["10.0", "2", "1.0"], ["1", "2", "10"]),  # as pandas writes a column with gaps
        (["1.5", "10.0", "2.0"], ["1.5", "2.0", "10.0"]),
        (["7", "007", "07"], ["007", "07", "7"]),  # in one order, whatever the seed of Python's hashes
        (["b", "1.0", "2"], ["1.0", "2", "b"]),
    ],
)
def test_labels_that_are_numbers_are_in_order_of_size(table: Path, given: list[str], names: list[str]) -> None:
    stems = [line.split(",")[0] for line in (table / "train.csv").read_text().splitlines()[1:4]]
    write_table(table / "three.csv", [["id", "kind"], *map(list, zip(stems, given, strict=True))])
    loader = ImageTableDataLoader(str(table), "three.csv", label="kind", **COMMON | {"batch_size": 1})
    assert loader.facts["class_names"] == names
    short = [names.index(kind) if kind in names else names.index(kind.removesuffix(".0")) for kind in given]
    assert [number for _, number in loader.dataset.samples] == short  # type: ignore[attr-defined]
    test = ImageTableDataLoader(
        str(table), test_table="three.csv", label="kind", training=False, facts={"class_names": names}, **COMMON
    )
    assert [number for _, number in test.dataset.samples] == short  # type: ignore[attr-defined]


def test_tables_as_other_programs_write_them(table: Path) -> None:
    """True and False, columns without names, commas in a quoted name of a column."""
    stems = [line.split(",")[0] for line in (table / "train.csv").read_text().splitlines()[1:3]]
    rows = [f"{stems[0]};True;0;;", f"{stems[1]};False;1.0;;"]
    (table / "t.csv").write_text("\n".join(['id;a;"b, c, d, e, f";;', *rows]))
    loader = ImageTableDataLoader(str(table), "t.csv", labels=["a", "b, c, d, e, f"], **COMMON | {"batch_size": 2})
    assert [labels.tolist() for _, labels in loader.dataset.samples] == [[1, 0], [0, 1]]  # type: ignore[attr-defined]


def test_tables_of_windows_and_of_macos(flowers: Path) -> None:
    """A byte order mark, semicolons, empty lines, backslashes; file names with accents apart from their letters."""
    decomposed = unicodedata.normalize("NFD", "é 한.jpg")
    Image.new("RGB", (4, 4)).save(flowers / decomposed)
    rows = ["\ufeffimage;label", "é 한.jpg;10", "", r"train\a\0.JPG;9", ""]
    (flowers / "train.csv").write_bytes("\r\n".join(rows).encode())
    loader = ImageTableDataLoader(str(flowers), label="label", batch_size=1)
    assert loader.facts == {"num_classes": 2, "class_names": ["9", "10"], "class_counts": [1, 1]}  # in order of size
    (flowers / "train.csv").write_bytes("image;label\nx.jpg;고양이\n".encode("cp949"))
    with pytest.raises(DataError, match=r"train\.csv, line 2: the byte .* is not utf-8; .*encoding: cp949"):
        ImageTableDataLoader(str(flowers), label="label", batch_size=1)
    (flowers / "train.csv").write_bytes("image;label;;\n한.jpg;고양이;;\n;;;\n".encode("cp949"))
    Image.new("RGB", (4, 4)).save(flowers / "한.jpg")
    korean = ImageTableDataLoader(str(flowers), label="label", encoding="cp949", batch_size=1)
    assert korean.facts["class_names"] == ["고양이"]
    table = [str(flowers / "train.csv")]  # predict.py reads it alike
    predicting = ImageTableDataLoader(str(flowers), label="label", encoding="cp949", facts=korean.facts, predict=table)
    assert predicting.unlabeled is not None
    assert predicting.unlabeled.names == ["한.jpg"]
