"""Image files of every kind come upright and in RGB, as torchvision's ImageFolder reads them; large ones quickly."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from data_loader.engine.images.cache import CachedImage
from data_loader.engine.images.decode import ImageFile, crop, pixels
from data_loader.transforms import CenterCrop

NOISE = np.random.default_rng(0)
RGB = Image.fromarray(NOISE.integers(0, 256, (6, 5, 3), dtype=np.uint8)).resize((25, 30), Image.Resampling.BICUBIC)
GRAY = RGB.convert("L")
ALPHA = Image.fromarray(NOISE.integers(0, 256, (30, 25), dtype=np.uint8))


def with_alpha(image: Image.Image) -> Image.Image:
    image = image.copy()
    image.putalpha(ALPHA)
    return image


def palette(transparency: int | bytes) -> Callable[[Path], None]:
    return lambda path: RGB.quantize(16).save(path, transparency=transparency)


def animated(path: Path) -> None:
    RGB.save(path, save_all=True, append_images=[ImageOps.invert(RGB), RGB], duration=50)


KINDS: dict[str, tuple[str, Callable[[Path], None]]] = {  # a file name, and what writes it
    "jpg": ("1.jpg", RGB.save),
    "upper-case suffix": ("1.JPG", RGB.save),
    "spaces and unicode": ("ein Bild, 그림 1.jpeg", RGB.save),
    "gray": ("1.jpg", GRAY.save),
    "CMYK": ("1.jpg", RGB.convert("CMYK").save),
    "progressive": ("1.jpg", lambda path: RGB.save(path, progressive=True)),
    "png": ("1.png", RGB.save),
    "1 bit": ("1.png", GRAY.convert("1").save),
    "LA": ("1.png", with_alpha(GRAY).save),
    "RGBA": ("1.png", with_alpha(RGB).save),
    "palette": ("1.png", RGB.quantize(16).save),
    "a transparent color": ("1.png", palette(3)),
    "transparent colors": ("1.png", palette(bytes(range(0, 160, 10)))),
    "gif": ("1.gif", RGB.quantize(64).save),
    "animated gif": ("1.gif", animated),
    "animated webp": ("1.webp", animated),
    "animated png": ("1.png", animated),
    "webp": ("1.webp", lambda path: RGB.save(path, quality=90)),
    "webp, transparent": ("1.webp", lambda path: with_alpha(RGB).save(path, lossless=True)),
    "bmp": ("1.bmp", RGB.save),
    "tif": ("1.tif", RGB.save),
    "tiff, compressed": ("1.tiff", lambda path: RGB.save(path, compression="tiff_lzw")),
    "ppm": ("1.ppm", RGB.save),
}


@pytest.mark.parametrize("kind", KINDS)
def test_read_as_torchvision_reads_them(kind: str, tmp_path: Path) -> None:
    from torchvision.datasets.folder import pil_loader

    name, write = KINDS[kind]
    write(tmp_path / name)
    with ImageFile(str(tmp_path / name)) as image:
        assert image.size == (25, 30)
        seen = pixels(image.rgb())
    assert seen.shape == (3, 30, 25)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's way warns of transparent colors, ours does not
        assert torch.equal(seen, pixels(pil_loader(str(tmp_path / name))))


@pytest.mark.parametrize("name", ["1.png", "1.tif", "1.pgm"])
def test_16_bit_gray_is_scaled(name: str, tmp_path: Path) -> None:
    values = np.array([[0, 128, 129, 4095, 32896, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / name)
    with ImageFile(str(tmp_path / name)) as image:
        assert pixels(image.rgb())[:, 0].tolist() == [[0, 0, 1, 16, 128, 255]] * 3


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright(orientation: int, suffix: str, tmp_path: Path) -> None:
    """At the full resolution and, of a JPEG, at 1/2 and 1/4 of it; sizes are no multiples of these."""
    y, x = np.mgrid[:303, :206]
    picture = np.stack([x, y * 255 // 302, (x + y) % 256], axis=2).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"1.{suffix}"
    turned = {2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}.get(orientation)  # the inverse of what it is turned by
    from data_loader.engine.images.decode import TURNS

    stored = Image.fromarray(picture)
    stored = stored.transpose(TURNS[turned]) if turned else stored
    stored.save(path, exif=exif, **({"quality": 95, "subsampling": 0} if suffix == "jpg" else {"lossless": True}))
    with ImageFile(str(path)) as image:
        assert image.size == (206, 303)
        for box, height, width in (
            ((0, 0, 206, 303), 303, 206),
            ((11, 51, 205, 301), 60, 40),
            ((6, 3, 200, 300), 99, 90),
        ):
            expected = crop(Image.fromarray(picture), box, height, width).float()
            with ImageFile(str(path)) as fresh:
                part = fresh.crop(box, height, width).float()
            # Smooth in red and green: half a pixel off would be 1.5 and more
            assert (part - expected)[:2].abs().mean() < 0.8
        assert (pixels(image.rgb()).float() - pixels(Image.fromarray(picture)).float()).abs().mean() < 3


def photo(width: int, height: int) -> Image.Image:
    """Shapes of all scales, finer ones fainter, as in photographs."""
    numbers, total, side = np.random.default_rng(1), np.zeros((height, width, 3)), 4
    while side <= 1024:
        for channel in range(3):
            shapes = Image.fromarray(numbers.normal(scale=side**-0.7, size=(side, side)).astype(np.float32))
            total[..., channel] += np.asarray(shapes.resize((width, height), Image.Resampling.BICUBIC))
        side *= 2
    return Image.fromarray(((total - total.mean()) / total.std() * 55 + 120).clip(0, 255).astype(np.uint8))


def test_a_large_jpeg_is_decoded_smaller_and_looks_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never below the resolution that the crop needs; the mean absolute difference to the full decode is below 4."""
    path = tmp_path / "1.jpg"
    photo(1199, 901).save(path, quality=90)
    whole = Image.open(path).convert("RGB")
    scales: list[int] = []
    decoded = ImageFile._decoded

    def noting(self: ImageFile, scale: int) -> Image.Image:
        image = decoded(self, scale)
        scales.append(scale)
        assert image.size == (-(-1199 // scale), -(-901 // scale))
        return image

    monkeypatch.setattr(ImageFile, "_decoded", noting)
    for box, size, scale in [
        ((0, 0, 1199, 901), 112, 8),
        ((0, 0, 1199, 901), 113, 4),
        ((101, 53, 701, 653), 150, 4),
        ((101, 53, 401, 353), 150, 2),
        ((101, 53, 400, 352), 150, 1),
        ((101, 53, 201, 153), 150, 1),
    ]:
        with ImageFile(str(path)) as image:
            part = image.crop(box, size, size).float()
        difference = (part - crop(whole, box, size, size).float()).abs().mean()
        assert scales.pop() == scale
        assert difference < 4 if scale > 1 else difference == 0
    with ImageFile(str(path)) as image:
        center = CenterCrop(96, resize=110)
        in_full = center(CachedImage(whole.size, np.asarray(whole)))
        assert (center(image).float() - in_full.float()).abs().mean() < 4
        assert scales == [8]
        assert torch.equal(pixels(image.rgb()), pixels(whole))  # after a small one, the whole image too


@pytest.mark.parametrize(
    "content, why", [(b"", r"it is empty \(0 bytes\)"), (b"<html>404", "it begins with b'<html>404'")]
)
def test_what_is_no_image_is_named(content: bytes, why: str, tmp_path: Path) -> None:
    path = tmp_path / "1.jpg"
    path.write_bytes(content)
    with pytest.raises(OSError, match=f"1.jpg is not an image that Pillow can read: {why}"):
        ImageFile(str(path))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow says so when it opens the file
def test_broken_exif_data_leaves_the_image_readable(tmp_path: Path) -> None:
    path = tmp_path / "1.jpg"
    RGB.save(path, exif=b"Exif\0\0II*\0\xff\xff\xff\xff broken")
    with ImageFile(str(path)) as image:
        assert image.size == (25, 30)


@pytest.mark.parametrize(
    "values, expected",
    [
        (np.array([[0, 0.5, 1]], np.float32), [0, 128, 255]),
        (np.array([[0, 100, 255]], np.float32), [0, 100, 255]),
        (np.array([[0, 32896, 65535, np.nan]], np.float32), [0, 128, 255, 0]),
        (np.array([[0, 100, 255]], np.int32), [0, 100, 255]),
        (np.array([[0, 257, 65535]], np.int32), [0, 1, 255]),
    ],
)
def test_gray_of_32_bits_is_scaled(values: np.ndarray, expected: list[int], tmp_path: Path) -> None:
    Image.fromarray(values).save(tmp_path / "1.tif")
    with ImageFile(str(tmp_path / "1.tif")) as image:
        assert pixels(image.rgb())[:, 0].tolist() == [expected] * 3


@pytest.mark.parametrize("values", [[[-1, 5]], [[0, 70000]]])
def test_gray_of_an_unknown_range_is_refused(values: list[list[int]], tmp_path: Path) -> None:
    Image.fromarray(np.array(values, np.int32)).save(tmp_path / "1.tif")
    with pytest.raises(ValueError, match=r"its 32-bit gray values are .* to .*; save it with 8 or 16 bits, or with"):
        ImageFile(str(tmp_path / "1.tif"))
