"""Class folders as people have them."""

import os
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from data_loader.engine.images import image_files
from data_loader.engine.images.image_files import Folders, find_class_folders
from data_loader.engine.paths import place
from utils.errors import DataError, UsageError


def make(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("/"):
            path.mkdir()
        elif path.suffix.lower() in (".jpg", ".png"):
            Image.new("RGB", (4, 4)).save(path)
        else:
            path.write_text("text")
    return root


def find(root: Path, training: bool = True, classes: list[str] | None = None, holds_out: bool = False, **folders: str):
    return find_class_folders(Folders(root, **folders), training, classes, holds_out)


def names(root: Path, samples: list) -> list[tuple[str, int]]:
    return [(Path(path).relative_to(root).as_posix(), number) for path, number in samples]


@pytest.mark.parametrize("valid", ["val", "valid", "Validation"])
def test_validation_folder(valid: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path, "train/b/1.jpg", "train/a/1.jpg", f"{valid}/b/2.jpg", "test/b/3.jpg")
    with caplog.at_level("INFO"):
        found = find(tmp_path)
    assert found.classes == ["a", "b"]
    assert names(tmp_path, found.samples) == [("train/a/1.jpg", 0), ("train/b/1.jpg", 1)]
    assert names(tmp_path, found.valid) == [(f"{valid}/b/2.jpg", 1)]
    assert caplog.messages == [
        f"{tmp_path}/train: 2 images of 2 classes (a 1, b 1); to validate, {tmp_path}/{valid}: 1 images of 2 classes "
        f"(a 0, b 1)"
    ]
    with pytest.raises(DataError, match=f"{valid} has validation images, but validation_split or folds holds out"):
        find(tmp_path, holds_out=True)
    assert find(tmp_path, holds_out=True, valid="").valid is None
    assert names(tmp_path, find(tmp_path, training=False, classes=["a", "b"]).samples) == [("test/b/3.jpg", 1)]


def test_one_folder_of_class_folders(tmp_path: Path) -> None:
    make(tmp_path, "cat/1.jpg", "dog/2.jpg")
    found = find(tmp_path, holds_out=True)
    assert (names(tmp_path, found.samples), found.valid) == ([("cat/1.jpg", 0), ("dog/2.jpg", 1)], None)
    with pytest.raises(DataError, match=r"has no test/ with class folders; give .* data_loader\.args\.data_dir=DIR"):
        find(tmp_path, training=False, classes=["cat", "dog"])
    assert len(find(tmp_path, training=False, classes=["cat", "dog"], test=".").samples) == 2


def test_where_there_is_no_test_folder(tmp_path: Path) -> None:
    make(tmp_path, "train/a/1.jpg", "val/a/2.jpg")
    with pytest.raises(
        DataError, match=r"no test/ with class folders; data_loader\.args\.test_folder=val tests on the"
    ):
        find(tmp_path, training=False, classes=["a"])


def test_testing_reads_no_training_folder(tmp_path: Path) -> None:
    make(tmp_path, "test/b/3.jpg")
    found = find(tmp_path, training=False, classes=["a", "b", "c"])
    assert (found.classes, names(tmp_path, found.samples)) == (["a", "b", "c"], [("test/b/3.jpg", 1)])


def test_what_is_left_out_is_reported_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(
        tmp_path, "a/1.jpg", "a/.DS_Store", "a/Thumbs.db", "a/._1.jpg", "a/.ipynb_checkpoints/1.jpg", "a/notes.txt",
        "a/label.xml", "a/more.txt", "a/README", "__MACOSX/a/1.jpg", ".cache/b/1.jpg", "b/deep er/b 한글.PNG",
        "loose.jpg",
    )  # fmt: skip
    (tmp_path / "b/gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    with caplog.at_level("INFO"):
        found = find(tmp_path)
    assert names(tmp_path, found.samples) == [("a/1.jpg", 0), ("b/deep er/b 한글.PNG", 1)]
    assert caplog.messages[1:] == [
        f"left out: 4 no images (2 .txt, 1 without suffix, 1 .xml); 1 in {tmp_path.name}/, outside of its class "
        f"folders; 4 hidden, or of the system; 1 links to nothing"
    ]


def test_what_the_installed_pillow_reads_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a/1.jfif", "a/2.webp", "a/3.AVIF", "a/4.heic", "a/5.pdf")
    monkeypatch.setattr(image_files, "_read_by_pillow", lambda: {".webp", ".avif", ".pdf"})
    assert names(tmp_path, find(tmp_path).samples) == [("a/1.jfif", 0), ("a/2.webp", 0), ("a/3.AVIF", 0)]
    monkeypatch.undo()
    assert {".webp", ".jp2"} <= image_files._read_by_pillow()


def test_what_it_does_not_read_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path, "train/a/1.jpg", "train/a/2.heic", "Dev/a/3.jpg")
    with caplog.at_level("INFO"):
        assert names(tmp_path, find(tmp_path).valid or []) == [("Dev/a/3.jpg", 0)]
    assert caplog.messages[1:] == ["left out: 1 .heic, which the installed Pillow cannot read"]


def test_linked_folders_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    make(tmp_path, "elsewhere/1.jpg", "data/a/2.jpg", "data/a/in/3.jpg")
    data = tmp_path / "data"
    (data / "b").symlink_to(tmp_path / "elsewhere")
    (data / "a/in/self").symlink_to(data / "a")
    (data / "a/up").symlink_to(data)
    (data / "a/loop").symlink_to("loop")
    (data / "loop").symlink_to("loop")
    (tmp_path / "elsewhere/x").symlink_to(data / "a/in")
    found = names(data, find(data).samples)
    assert found == [("a/2.jpg", 0), ("a/in/3.jpg", 0), ("b/1.jpg", 1), ("b/x/3.jpg", 1)]


def test_an_empty_class_keeps_its_number(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(tmp_path, "train/a/1.jpg", "train/b/", "train/c/1.jpg", "test/b/", "test/c/1.jpg", "test/new/")
    found = find(tmp_path)
    assert (found.classes, names(tmp_path, found.samples)[1]) == (["a", "b", "c"], ("train/c/1.jpg", 2))
    assert "has no images of b, which cannot be learned; the other classes keep their numbers" in caplog.text
    assert names(tmp_path, find(tmp_path, False, found.classes).samples) == [("test/c/1.jpg", 2)]


@pytest.mark.parametrize(
    "files, message",
    [
        ([], r"No class folders in .*\. Put the images of each class into a folder of its name"),
        (["1.jpg", "2.jpg"], "for images in one folder with a table of their labels, use ImageTableDataLoader"),
        (["a/1.txt"], r"No images \(\.bmp, .*\) in the class folders of .*; there are: 1 no images \(1 \.txt\)"),
        (["val/a/1.jpg", "test/a/1.jpg"], "has val/ and test/, but no train/ with class folders"),
        (
            ["flowers/train/a/1.jpg"],
            "no class folders of its own, but flowers/train/ has: set data_loader.args.data_dir=",
        ),
        (["train/a/1.jpg", "val/z/1.jpg"], "val has classes that the training data does not have: z"),
        (["train/1.jpg", "test/2.jpg", "train.csv"], "has test/ and train/, but no class folders in them.*a table of"),
        (["train_images/1.jpg", "test1/2.jpg", "notes/1.txt"], "has test1/ and train_images/, but no class folders in"),
    ],
)
def test_what_is_wrong_is_said(files: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        find(make(tmp_path, *files))


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs a user who may not read everything")
def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    make(tmp_path, "a/in/1.jpg")
    (tmp_path / "a/in").chmod(0)
    with pytest.raises(DataError, match=r"a/in cannot be read: Permission denied"):
        find(tmp_path)


def test_classes_may_be_called_like_parts_of_the_data(tmp_path: Path) -> None:
    assert find(make(tmp_path / "1", "train/1.jpg", "truck/2.jpg")).classes == ["train", "truck"]
    assert find(make(tmp_path / "2", "train/1.jpg", "test/2.jpg"), train=".").classes == ["test", "train"]


def test_a_class_is_known_however_its_accents_are_stored(tmp_path: Path) -> None:
    """macOS decomposes letters in file names."""
    composed, apart = (unicodedata.normalize(form, "é 한") for form in ("NFC", "NFD"))
    make(tmp_path, f"train/{apart}/1.jpg", "train/b/1.jpg", f"val/{composed}/2.jpg", f"test/{composed}/3.jpg")
    found = find(tmp_path)
    assert found.classes == ["b", composed]
    assert [number for _, number in found.samples] == [0, 1]
    assert names(tmp_path, found.valid) == [(f"val/{composed}/2.jpg", 1)]
    assert names(tmp_path, find(tmp_path, False, ["b", apart]).samples) == [(f"test/{composed}/3.jpg", 1)]


def test_a_home_and_variables_in_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert place("~/birds") == place("$HOME/birds") == tmp_path / "birds"
    with pytest.raises(UsageError, match=r"\$NOWHERE/x: the environment variable NOWHERE is not set"):
        place("$NOWHERE/x")
