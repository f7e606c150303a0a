"""Transforms of a config in the ready-made loaders of images, in memory and in files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from data_loader.engine.images.decode import ImageFile, pixels
from data_loader.transforms import CenterCrop, RandomAffine, RandomCropFlip, RandomErasing, RandomResizedCrop, Resize
from data_loader.vision import Cifar10DataLoader, ImageFolderDataLoader, MnistDataLoader
from tests.data_loader.batches import first, whole
from tests.data_loader.test_vision import small_mnist
from utils.config import load
from utils.errors import SampleError, UsageError
from utils.seed import keys_of

__all__ = ["small_mnist"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """12 JPEG files of noise in two classes, of several sizes; 4 more to test."""
    numbers = np.random.default_rng(0)
    for part, n in (("train", 6), ("test", 2)):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(n):
                pixels = numbers.integers(0, 256, (6, 6, 3)).astype(np.uint8)
                picture = Image.fromarray(pixels).resize((40 + 7 * i, 60 - 5 * i), Image.Resampling.BICUBIC)
                picture.save(tmp_path / part / name / f"{i}.jpg")
    return tmp_path


def folder(photos: Path, **options: Any) -> ImageFolderDataLoader:
    loader = ImageFolderDataLoader(str(photos), **{"batch_size": 6, "size": 16, **options})
    loader.configure(seed=5)
    return loader


def strong() -> list[Any]:
    return [RandomResizedCrop(16), v2.RandAugment(), RandomAffine(rotate=20), v2.RandomErasing(p=0.5)]


def test_files_with_workers_in_other_batches_and_epochs(photos: Path) -> None:
    usual = folder(photos, transforms=strong())
    images, labels = first(usual)
    assert images.shape == (6, 3, 16, 16)
    assert images.dtype == torch.float32
    assert torch.equal(first(folder(photos, transforms=strong(), num_workers=2))[0], images)
    assert torch.equal(first(folder(photos, transforms=strong(), batch_size=3))[0], images[:3])
    assert torch.equal(first(folder(photos))[1], labels)
    assert not torch.equal(first(folder(photos))[0], images)
    fixed = folder(photos, transforms=strong(), shuffle=False)
    assert not torch.equal(first(fixed, 0)[0], first(fixed, 2)[0])  # the same files in another epoch
    assert torch.equal(first(fixed, 2)[0], first(fixed, 2)[0])


def test_the_default_is_a_random_crop(photos: Path) -> None:
    listed = folder(
        photos,
        transforms=[RandomResizedCrop(16, flip=0.5)],
        eval_transforms=[CenterCrop(16, resize=18)],
        validation_split=4,
    )
    usual = folder(photos, validation_split=4)
    assert torch.equal(first(listed)[0], first(usual)[0])
    assert torch.equal(whole(listed.split_validation())[0], whole(usual.split_validation())[0])


def test_evaluation_of_files_is_never_augmented(photos: Path) -> None:
    given: dict[str, Any] = {"transforms": strong(), "batch_transforms": [v2.MixUp()]}
    held_out = [whole(folder(photos, validation_split=4, **g).split_validation()) for g in (given, {})]
    tested = [whole(folder(photos, training=False, batch_size=4, **g).for_testing()) for g in (given, {})]
    for (images, labels), (plain, plain_labels) in (held_out, tested):
        assert torch.equal(images, plain)
        assert torch.equal(labels, plain_labels)


def test_eval_transforms_of_files(photos: Path) -> None:
    loader = folder(photos, eval_transforms=[v2.Resize(20), v2.CenterCrop(20)], validation_split=4)
    assert first(loader)[0].shape[2:] == (16, 16)
    assert whole(loader.split_validation())[0].shape == (4, 3, 20, 20)


def test_a_transform_of_yours_gets_bytes_and_floats_are_left_alone(photos: Path) -> None:
    seen = []

    def look(image: Tensor) -> Tensor:
        seen.append((image.dtype, tuple(image.shape)))
        return image

    own = folder(photos, transforms=[look, v2.Resize([16, 16]), v2.Normalize([0.5] * 3, [0.5] * 3)])
    images, _ = first(own)
    assert {dtype for dtype, _ in seen} == {torch.uint8}
    assert len({shape for _, shape in seen}) > 1
    assert -1 <= images.min() < -0.5
    assert 0.5 < images.max() <= 1
    assert own.normalization == ([0.5] * 3, [0.5] * 3)
    assert folder(photos).normalization == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_min_area_is_of_the_default_crop(photos: Path) -> None:
    assert not torch.equal(first(folder(photos, min_area=0.9))[0], first(folder(photos))[0])
    with pytest.raises(UsageError, match="min_area is of the random crop that `transforms` replace; give it to"):
        folder(photos, min_area=0.9, transforms=strong())


def test_crops_of_images_in_memory(small_mnist: Path) -> None:
    loader = MnistDataLoader(
        str(small_mnist), 10, transforms=[RandomResizedCrop(20, (0.5, 1))], eval_transforms=[CenterCrop(14)]
    )
    assert first(loader)[0].shape == (10, 1, 20, 20)
    assert whole(loader.for_testing())[0].shape == (50, 1, 14, 14)
    nested = MnistDataLoader(str(small_mnist), 10, transforms=[v2.RandomApply([RandomResizedCrop(28)], p=0.5)])
    assert first(nested)[0].shape == (10, 1, 28, 28)


def test_the_bits_of_mnist_best(small_mnist: Path) -> None:
    """The list of config/mnist_best.yaml gives what its options gave: the transform of each whole batch."""
    args = [f"data_loader.args.data_dir={small_mnist}", "data_loader.args.validation_split=5"]
    config = load(["config/mnist_best.yaml"], [*args, "data_loader.args.batch_size=10"])
    config.check()
    loader = config.build("data_loader")
    loader.configure(seed=1)
    indices = loader.indices(0)
    keys = torch.from_numpy(keys_of(1, 0, indices))
    plain = loader.eval_dataset
    expected = plain.normalize(RandomAffine(10, 2, 0.1, 5)(plain.tensors[0][torch.from_numpy(indices)], keys))
    assert torch.equal(first(loader)[0], expected)


def test_cifar10_has_a_list_too(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr("data_loader.vision.read_cifar10", lambda data_dir, training: (images, torch.arange(40) % 10))
    fast = Cifar10DataLoader(batch_size=10, transforms=[RandomCropFlip(crop=4, flip=True)])
    slow = Cifar10DataLoader(batch_size=10, transforms=[RandomCropFlip(crop=4, flip=True), v2.TrivialAugmentWide()])
    assert hasattr(fast.dataset, "__getitems__")
    assert first(fast)[0].shape == first(slow)[0].shape == (10, 3, 32, 32)
    assert not torch.equal(first(fast)[0], first(slow)[0])


def test_training_and_evaluation_that_are_normalized_differently_are_warned_of(photos: Path, caplog: Any) -> None:
    to_float = [RandomResizedCrop(16), v2.ToDtype(torch.float32, scale=True)]
    normalize = v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    for options, warns in (
        ({}, False),
        ({"transforms": to_float}, True),
        ({"transforms": [*to_float, normalize]}, False),
        ({"transforms": [*to_float, normalize], "mean": (0.5, 0.5, 0.5)}, True),
        ({"transforms": to_float, "eval_transforms": [CenterCrop(16), v2.ToDtype(torch.float32, scale=True)]}, False),
    ):
        caplog.clear()
        loader = folder(photos, validation_split=4, **options)
        first(loader)
        whole(loader.split_validation())
        assert ("training and evaluation are normalized differently" in caplog.text) == warns


def test_what_normalization_cannot_be_is_refused(photos: Path) -> None:
    with pytest.raises(UsageError, match=r"mean is \[124, 116, 104\] and std is .*; give those of values 0\.\.1"):
        folder(photos, mean=(124, 116, 104))
    with pytest.raises(UsageError, match="and std more than 0"):
        folder(photos, std=(0, 0, 0))
    with pytest.raises(SampleError, match="the images have 1 channels, but mean and std are of 3; keep the channels"):
        first(folder(photos, transforms=[RandomResizedCrop(16), v2.Grayscale()]))
    with pytest.raises(UsageError, match="CenterCrop: size is 0; give a number of 1 or more, or two"):
        folder(photos, size=0)
    with pytest.raises(UsageError, match=r"scale is \[1\.5, 1\.0\], ratio is"):
        folder(photos, min_area=1.5)
    with pytest.raises(SampleError, match=r"Give all images one size: list RandomResizedCrop in transforms, and Resiz"):
        first(folder(photos, transforms=[v2.RandomHorizontalFlip()]))


def test_amounts_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UsageError, match="RandomCropFlip: crop is -1; give a number of pixels, 0 or more"):
        RandomCropFlip(crop=-1)
    for wrong in ({"scale": -0.5}, {"shear": 90}):
        with pytest.raises(UsageError, match=r"give a scale of 0 or more .*, and a shear below 90 degrees"):
            RandomAffine(**wrong)


def test_large_shifts_reflect_as_often_as_needed() -> None:
    images = torch.arange(3.0).expand(64, 1, 1, 3)  # one row: 0 1 2
    shifted = RandomCropFlip(crop=9).batch(images, torch.arange(64))
    expected = torch.tensor([0.0, 1, 2, 1] * 8)  # 0 1 2 1 0 1 2 1 ...
    windows = {tuple(expected[start : start + 3].tolist()) for start in range(4)}
    assert {tuple(row.flatten().tolist()) for row in shifted} == windows


V2 = {  # arguments that people give; each transform without an entry is listed by its name alone
    "AutoAugment": ["policy: cifar10"], "AugMix": ["severity: 2"], "CenterCrop": ["size: 8", "size: [8, 6]"],
    "ColorJitter": ["brightness: 0.5, hue: [-0.1, 0.1]"],
    "Compose": ["transforms: [RandomHorizontalFlip, RandomVerticalFlip]"],
    "ElasticTransform": ["alpha: 50, sigma: 0.5"], "GaussianBlur": ["kernel_size: [3, 5], sigma: 1.0"],
    "Grayscale": ["num_output_channels: 3"], "Normalize": ["mean: [0.5], std: [0.5]"],
    "Pad": ["padding: [1, 2], padding_mode: reflect"], "RandAugment": ["num_ops: 2, magnitude: 7, fill: 128"],
    "RandomAdjustSharpness": ["sharpness_factor: 2"], "RandomApply": ["transforms: [RandomVerticalFlip], p: 0.3"],
    "RandomAffine": [
        "degrees: 10", "degrees: [-10, 10], translate: [0.1, 0.1], scale: [0.9, 1.1], shear: 5, interpolation: BILINEAR"
    ],
    "RandomChoice": ["transforms: [RandomHorizontalFlip, RandomVerticalFlip], p: [0.3, 0.7]"],
    "RandomCrop": ["size: 8", "size: [16, 16], padding: 4, padding_mode: reflect"],
    "RandomErasing": ["p: 1, value: random", "p: 1, value: [9]"], "RandomOrder": ["transforms: [RandomHorizontalFlip]"],
    "RandomPerspective": ["distortion_scale: 0.2, p: 1"], "RandomPosterize": ["bits: 4"],
    "RandomResize": ["min_size: 8, max_size: 20"], "RandomShortestSize": ["min_size: [8, 12], max_size: 20"],
    "RandomResizedCrop": ["size: [8, 6], scale: [0.5, 1], ratio: [1, 2]", "size: 8, interpolation: bicubic, flip: 0.5"],
    "RandomRotation": ["degrees: [0, 90], expand: true, fill: 1"], "RandomSolarize": ["threshold: 128"],
    "Resize": ["size: 8", "size: [8, 6], interpolation: NEAREST", "size: 8, max_size: 20", "size: null, max_size: 20"],
    "ScaleJitter": ["target_size: [16, 16]"], "ToDtype": ["dtype: float32, scale: true"],
}  # fmt: skip
OF_OTHERS = {  # of batches, videos, boxes, functions; several images; those that warn that they are deprecated
    "ClampBoundingBoxes", "ClampKeyPoints", "ConvertBoundingBoxFormat", "CutMix", "FiveCrop", "JPEG", "Lambda",
    "LinearTransformation", "MixUp", "PILToTensor", "RandomIoUCrop", "SanitizeBoundingBoxes", "SanitizeKeyPoints",
    "SetClampingMode", "TenCrop", "ToTensor", "Transform", "UniformTemporalSubsample", "UniformKeyPointsSubsample",
}  # fmt: skip
V2_NAMES = sorted(n for n, t in vars(v2).items() if isinstance(t, type) and issubclass(t, torch.nn.Module))


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in V2_NAMES if n not in OF_OTHERS])
def test_every_transform_of_torchvision_by_name(name: str, photos: Path, small_mnist: Path) -> None:
    files = f"ImageFolderDataLoader, args: {{data_dir: {photos}, batch_size: 2"
    memory = f"MnistDataLoader, args: {{data_dir: {small_mnist}, batch_size: 2"
    for args in V2.get(name, [""]):
        part = f"{{type: {name}, args: {{{args}}}}}, {{type: Resize, args: {{size: [9, 9]}}}}"
        for kind, option in [(files, "transforms"), (memory, "transforms"), (files, "eval_transforms")]:
            made = f"data_loader={{type: {kind}, validation_split: 2, {option}: [{part}]}}}}"
            config = load(["config/digits.yaml"], [made])
            config.check()
            loader = config.build("data_loader")
            loader.configure(seed=3)
            images = first(loader)[0] if option == "transforms" else whole(loader.split_validation())[0]
            assert images.dtype == torch.float32
            assert images.shape[2:] == (9, 9)


def test_names_of_torchvision_mean_what_they_do_there(photos: Path) -> None:
    """Of an image in memory they are torchvision's, bit for bit; of a file, too, but for how it is decoded."""
    image = torch.randint(0, 256, (3, 30, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pairs: list[tuple[Any, Any]] = [
        (CenterCrop([20, 10]), v2.CenterCrop([20, 10])),
        (CenterCrop(50), v2.CenterCrop(50)),
        (Resize(25), v2.Resize(25)),
        (Resize([5, 9], interpolation="bicubic"), v2.Resize([5, 9], v2.InterpolationMode.BICUBIC)),
        (RandomResizedCrop((8, 6), (0.2, 0.5), (1, 2)), v2.RandomResizedCrop((8, 6), (0.2, 0.5), (1, 2))),
        (RandomAffine(degrees=30, scale=(0.5, 2)), v2.RandomAffine(30, scale=(0.5, 2))),
        (RandomErasing(1.0, value="random"), v2.RandomErasing(1.0, value="random")),
    ]
    for ours, theirs in pairs:
        drawn = []
        for transform in (ours, theirs):
            torch.manual_seed(3)
            drawn.append(transform(image))
        assert torch.equal(*drawn)
    path = str(photos / "train" / "cat" / "0.jpg")
    with ImageFile(path) as file:
        decoded = pixels(file.rgb())
        for ours, theirs in pairs[:4]:
            assert torch.equal(ours(file), theirs(decoded))
    masked = {"image": tv_tensors.Image(image), "mask": tv_tensors.Mask(image[0])}
    cut = RandomResizedCrop(8, flip=0.5)(masked)
    assert cut["image"].shape[1:] == cut["mask"].shape == (8, 8)
    with pytest.raises(UsageError, match="are of torchvision's transform, which needs degrees; add it, such as"):
        RandomAffine(scale=(0.9, 1.1))


def test_several_crops_of_an_image_are_normalized_each(photos: Path) -> None:
    images, _ = first(folder(photos, transforms=[v2.Resize([9, 9]), v2.FiveCrop(8)]))
    assert [(crop.shape[1:], crop.dtype) for crop in images] == [((3, 8, 8), torch.float32)] * 5
    stacked, _ = first(folder(photos, transforms=[v2.Resize([9, 9]), v2.FiveCrop(8), torch.stack]))
    assert torch.equal(stacked, torch.stack(list(images), dim=1))


def test_a_transform_that_fails_is_to_be_corrected_not_the_file(photos: Path) -> None:
    with pytest.raises(
        SampleError, match=r"RandomCrop failed for uint8 .*\nCorrect or leave out this transform, or set"
    ):
        first(folder(photos, transforms=[v2.RandomCrop(500)]))


def test_pictures_that_a_transform_makes_go_to_the_next(photos: Path) -> None:
    def turned(image: Any) -> Any:
        return image.rotate(90)

    crop = v2.CenterCrop(16)
    images, _ = first(folder(photos, transforms=[crop, v2.ToPILImage(), turned, RandomCropFlip(crop=1)]))
    expected, _ = first(folder(photos, transforms=[crop, lambda image: image.rot90(1, (1, 2)), RandomCropFlip(crop=1)]))
    assert torch.equal(images, expected)
    with pytest.raises(SampleError, match=r"turned failed for uint8 .*list ToPILImage before one that is for pictures"):
        first(folder(photos, transforms=[turned]))
