"""Masks: their classes, sizes, names and colors."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from trainer.inference.masks import Masks, classes_of, mask_names, palette
from trainer.inference.views import VIEWS
from utils.errors import UsageError


def test_classes_at_the_size_of_the_image() -> None:
    """Probabilities are resized, not classes: a boundary is where both are equal."""
    left = torch.tensor([1.0, 1.0, 0.0, 0.0]).expand(4, 4)
    found = classes_of(torch.stack([left, 1 - left]), (7, 12))
    np.testing.assert_array_equal(found, np.repeat([[0, 1]], 6, axis=1) * np.ones((7, 1)))
    np.testing.assert_array_equal(classes_of(1 - left[None], (7, 12)), found)  # one output: of the second class
    same = torch.rand(5, 6, 3, generator=torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(classes_of(same, (6, 3)), same.argmax(dim=0).numpy())


def test_files_and_their_values(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # on its side
    Image.new("RGB", (8, 5)).save(tmp_path / "in/a.jpg", exif=exif)
    Image.new("RGB", (8, 5)).save(tmp_path / "in/b.png")
    outputs = torch.zeros(2, 2, 4, 4)
    outputs[0, 1], outputs[1, 0] = 1, 1
    paths = [str(tmp_path / "in/a.jpg"), str(tmp_path / "in/b.png")]
    masks = Masks(tmp_path / "out", paths, "logits", outputs, [0, 255])
    assert masks.rows([0, 1], ["a", "b"], outputs) == [["a", "a.png"], ["b", "b.png"]]
    with Image.open(tmp_path / "out/a.png") as one, Image.open(tmp_path / "out/b.png") as two:
        assert (one.mode, one.size, two.size) == ("P", (5, 8), (8, 5))
        assert np.unique(np.array(one)) == 255
        assert np.unique(np.array(two)) == 0
    with pytest.raises(UsageError, match=r"a mask would replace the image .*b\.png; give another folder"):
        Masks(tmp_path / "in", paths, "logits", outputs, None)
    for kind, shape in (("values", (1, 3, 4, 4)), ("logits per label", (1, 3, 4, 4))):
        with pytest.raises(UsageError, match=r"writes masks of one class for each pixel"):
            Masks(tmp_path / "out", paths, kind, torch.zeros(shape), None)  # type: ignore[arg-type]


def test_names() -> None:
    assert mask_names(["x/a.jpg", "x/y/b.tif"]) == ["a.png", "y/b.png"]
    assert mask_names(["x/a.jpg", "x/a.png", "x/c.png"]) == ["a.jpg.png", "a.png.png", "c.png.png"]
    assert mask_names(["../p/a.jpg", "q/a.jpg", "q/a.jpg"])[1:] == [f"{Path.cwd().name}/q/a.png"] * 2
    same = mask_names(["x/a.jpg", "x/a.png", "x/a.jpg.tif"])
    assert len(set(same)) == 3, same
    assert palette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]  # those of PASCAL VOC
    assert len({tuple(palette()[i : i + 3]) for i in range(0, 768, 3)}) == 256


def test_views_are_undone() -> None:
    image = torch.arange(2 * 3 * 4).reshape(1, 2, 3, 4)
    for view in VIEWS.values():
        assert not torch.equal(view.of_images(image), image)
        assert torch.equal(view.back(view.of_images(image)), image)
