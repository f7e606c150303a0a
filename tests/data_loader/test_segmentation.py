"""Images and masks: cropped and mirrored together, found by name, and errors that name the file."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from data_loader.engine.images import draw_shapes
from data_loader.segmentation import SegmentationDataLoader
from tests.data_loader.batches import first, whole
from tests.tiny import tiny
from utils.errors import DataError, SampleError, UsageError

__all__ = ["tiny"]


def write(folder: Path, name: str, mask: np.ndarray, **options: Any) -> None:
    """An image whose red is 50 times the class, and its mask."""
    for kind in ("images", "masks"):
        (folder / kind / name).parent.mkdir(parents=True, exist_ok=True)
    red = np.where(mask == 255, 250, mask * 50).astype(np.uint8)
    Image.fromarray(np.stack([red, 0 * red, 0 * red], axis=2)).save(folder / "images" / f"{name}.png")
    Image.fromarray(mask.astype(np.uint8)).save(folder / "masks" / f"{name}.png", **options)


@pytest.fixture
def squares(tmp_path: Path) -> Path:
    """Masks of large blocks, of classes 0 to 3 and 255."""
    numbers = np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 3), ("test", 3)):
        for i in range(count):
            blocks = numbers.choice([0, 1, 2, 3, 255], (3, 4))
            write(tmp_path / part, f"in/{i}", np.kron(blocks, np.ones((16, 16))))
    write(tmp_path / "train", "in/8", np.full((48, 64), 3))
    return tmp_path


def load(folder: Path, **options: Any) -> SegmentationDataLoader:
    given: dict[str, Any] = {"batch_size": 3, "size": 32, "mean": (0, 0, 0), "std": (1, 1, 1)} | options
    return SegmentationDataLoader(str(folder), **given)


@pytest.mark.parametrize("workers", [0, 2])
def test_images_and_masks_are_cropped_and_mirrored_together(squares: Path, workers: int) -> None:
    loader, plain = load(squares, num_workers=workers), load(squares)
    seen = []
    for step in range(3):
        images, masks = first(loader, step)
        assert (images.shape, images.dtype) == ((3, 3, 32, 32), torch.float32)
        assert (masks.shape, masks.dtype) == ((3, 32, 32), torch.int64)
        red = torch.where(masks == 255, 250, masks * 50) / 255
        assert ((images[:, 0] - red).abs() < 0.02).float().mean() > 0.8  # all but the edges between blocks
        again, _ = first(plain, step)
        assert torch.equal(images, again)
        seen.append(images)
    assert loader.facts == {"num_classes": 4, "class_names": ["0", "1", "2", "3"]}


def test_evaluation_sees_the_whole_image(squares: Path) -> None:
    images, masks = whole(load(squares).split_validation())
    assert images.shape == (3, 3, 32, 32)
    raw = np.array(Image.open(squares / "val/masks/in/0.png"))
    assert masks[0].unique().tolist() == np.unique(raw).tolist()
    assert masks[0, ::31, ::31].tolist() == raw[::47, ::63].tolist()
    tested = load(squares, training=False, facts={"class_names": ["a", "b", "c", "d"]}, batch_size=16)
    assert len(whole(tested)[0]) == 3  # fewer than a batch
    assert tested.facts["class_names"] == ["a", "b", "c", "d"]


def test_other_layouts(squares: Path) -> None:
    for kind in ("images", "masks"):
        (squares / "other" / kind).mkdir(parents=True)
        for part in ("train", "val"):
            (squares / part / kind).rename(squares / "other" / kind / part)
    other = load(squares / "other")
    assert (len(other.dataset), len(other.split_validation().dataset)) == (9, 3)  # type: ignore[union-attr]
    with pytest.raises(
        DataError, match=r"No test images and masks in .*; data_loader\.args\.test_folder=val tests on the"
    ):
        load(squares / "other", training=False)
    assert len(load(squares / "other", training=False, test_folder="val").dataset) == 3
    for path in squares.glob("test/masks/in/*.png"):
        path.rename(path.with_name(f"{path.stem}_mask.png"))
    second = path.with_name(f"{path.stem}_seg.png")
    second.write_bytes(path.with_name(f"{path.stem}_mask.png").read_bytes())
    with pytest.raises(DataError, match=r"_(mask|seg)\.png and .*_(mask|seg)\.png are masks of one image; remove one"):
        load(squares, training=False)
    second.unlink()
    for kind in ("images", "masks"):
        (squares / "test" / kind).rename(squares / "test" / kind.title())
    flat = load(squares / "test", validation_split=1, batch_size=2)
    assert (len(flat.samples), len(flat.split_validation().samples)) == (2, 1)  # type: ignore[union-attr]


def test_masks_with_a_palette_or_other_values(tmp_path: Path) -> None:
    mask = np.kron([[0, 255], [0, 1]], np.ones((8, 8)))
    write(tmp_path, "a", mask)
    colored = Image.fromarray(mask.astype(np.uint8), mode=None)
    colored.putpalette([9, 9, 9, 200, 0, 0] + [0] * 756 + [255, 255, 255])
    colored.save(tmp_path / "masks/a.png")
    options = {"batch_size": 1, "size": 16, "shuffle": False, "min_area": 1.0}
    assert whole(load(tmp_path, classes=2, **options).for_testing())[1].unique().tolist() == [0, 1, 255]
    binary = load(tmp_path, values=[0, 255], **options)
    assert binary.facts["num_classes"] == 2
    assert whole(binary.for_testing())[1][0, 4].tolist() == [0] * 8 + [1] * 8
    assert whole(binary.for_testing())[1][0, 12].tolist() == [0] * 8 + [255] * 8  # 1 is no value of these


@pytest.mark.parametrize(
    "mask, message",
    [
        (
            np.full((48, 64), 9),
            r"0\.png\) could not be read: .*has the value 9, but there are 2 classes, 0 to 1, and 255",
        ),
        (np.zeros((40, 64)), r"the image is \[48, 64\], its mask .*masks/in/0\.png is \[40, 64\]"),
        (np.eye(64)[:48, :, None] * [1, 0, 0], r"is a mask of mode RGB with colors; give one channel with a class"),
    ],
)
def test_a_wrong_mask_is_named(squares: Path, mask: np.ndarray, message: str) -> None:
    Image.fromarray(mask.astype(np.uint8)).save(squares / "test/masks/in/0.png")
    for name in ("1", "2"):
        write(squares / "test", f"in/{name}", np.ones((48, 64)))
    with pytest.raises((SampleError, DataError), match=message):
        whole(load(squares, training=False, classes=2))


def test_values_stand_for_one_class_each(squares: Path) -> None:
    for wrong in ({"values": [0, 0]}, {"values": [0, 1], "classes": ["a", "b", "c"]}):
        with pytest.raises(UsageError, match=r"values is \[0, .\], for . classes; give another value for each class"):
            load(squares, **wrong)
    with pytest.raises(DataError, match="the masks have 0 classes, by `classes` or"):
        load(squares, classes=0)
    with pytest.raises(UsageError, match=r"scale is \[2, 1\.0\]"):
        load(squares, min_area=2)


def test_missing_files(squares: Path) -> None:
    (squares / "train/masks/in/3.png").unlink()
    with pytest.raises(
        DataError, match=r"No mask in .*train/masks for .*images/in/3\.png; a mask has its image's name"
    ):
        load(squares)
    with pytest.raises(DataError, match=r"No train images and masks in .*/nowhere; put them into train/images/ and"):
        load(squares / "nowhere")


def test_drawn_shapes_are_learned(tmp_path: Path, tiny: Any) -> None:
    """A few steps of the shipped config: the loss falls, and mIoU is in the log."""
    draw_shapes.write(tmp_path / "shapes", {"train": 24, "val": 8})
    loader = (
        f"{{type: SegmentationDataLoader, args: {{data_dir: {tmp_path}/shapes, batch_size: 8, size: 24, classes: 4}}}}"
    )
    options = [f"data_loader={loader}", "arch={type: UNet, args: {widths: [8, 16]}}", "metrics=[MeanIoU]"]
    options += ["loss={type: cross_entropy, args: {ignore_index: 255}}", "optimizer={type: AdamW, args: {lr: 0.01}}"]
    tiny.train(*options, "trainer.epochs=4", "trainer.limit_batches=null")
    points = tiny.points("valid")
    assert points[-1]["loss"] < points[0]["loss"]
    assert 0.1 < points[-1]["MeanIoU"] < 1


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "F"])
def test_gray_masks_in_other_modes(squares: Path, mode: str) -> None:
    usual = first(load(squares, classes=4))
    for path in squares.glob("train/masks/in/*.png"):
        with Image.open(path) as mask:
            mask.convert(mode).save(path.with_suffix(".tif"))
        path.unlink()
    for one, two in zip(first(load(squares, classes=4)), usual, strict=True):
        assert torch.equal(one, two)


def test_masks_of_0_and_255_alone_are_not_taken_as_ignored(squares: Path) -> None:
    """Else the loss would be 0 and mIoU 1."""
    for path in squares.glob("train/masks/in/*.png"):
        with Image.open(path) as mask:
            binary = mask.point(lambda value: 255 if value == 1 else 0)
        binary.save(path)
    for classes in (None, ["background", "square"]):
        with pytest.raises(DataError, match=r"have no values but 0 and 255, which .* set .*values=\[0,255\] where it"):
            load(squares, classes=classes)
    assert load(squares, values=[0, 255]).facts["num_classes"] == 2
    assert load(squares, values=[0, 1]).facts["num_classes"] == 2
    for path in squares.glob("train/masks/in/*.png"):
        path.rename(path.with_suffix(".jpg"))
    with pytest.raises(DataError, match=r"0\.jpg is a mask in JPEG, which changes class numbers; save masks as PNG"):
        load(squares)


def test_floats_are_not_normalized_again(squares: Path) -> None:
    to_float = v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True)
    images, masks = first(load(squares, classes=4, transforms=[to_float]))
    usual = first(load(squares, classes=4))
    torch.testing.assert_close(images, usual[0], rtol=0, atol=1e-6)  # by a mean of 0 and a std of 1
    assert torch.equal(masks, usual[1])


def test_a_mask_is_no_label(squares: Path) -> None:
    with pytest.raises(UsageError, match="samples of a ImagesAndMasks have no single label each that is known"):
        load(squares, classes=4, balanced=True).weighting  # noqa: B018
