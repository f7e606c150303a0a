"""`transforms`, `eval_transforms` and `batch_transforms` of a data loader: what they see, and that all bits follow from
(seed, epoch, sample)."""

import copy
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import ToTensor, v2

import train
from data_loader import BaseDataLoader
from data_loader.data_loaders import DigitsDataLoader
from data_loader.engine.augmentation import Augmented, normalization
from data_loader.transforms import RandomAffine, RandomCropFlip
from logger.image_grid import captions, image_grid
from tests.data_loader.batches import first, whole
from tests.tiny import CONFIG, Tiny, tiny
from tests.trainer.checkpoint.harness import House, at_step, die, same_end
from tests.trainer.checkpoint.harness import config as killed_config
from trainer.engine.commands import check
from utils.config import load
from utils.errors import SampleError, UsageError
from utils.seed import mix

__all__ = ["tiny"]
ROOT = Path(__file__).resolve().parents[3]
STRONG = ["RandAugment", {"type": "RandomErasing", "args": {"p": 0.5}}]
MIXED = [{"type": "RandomChoice", "args": {"transforms": ["MixUp", "CutMix"]}}]


def strong() -> list[Any]:
    return [v2.RandAugment(), RandomAffine(rotate=10), v2.RandomErasing(p=0.5)]


def digits(**options: Any) -> DigitsDataLoader:
    loader = DigitsDataLoader(**{"batch_size": 50, **options})
    loader.configure(seed=3)
    return loader


class Sums:
    """A transform of one's own: counts what it gets."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    def __call__(self, image: Tensor) -> Tensor:
        self.seen.append((tuple(image.shape), image.dtype))
        return image


# -- samples ----------------------------------------------------------------------------------------------------------


def test_transforms_of_whole_batches_stay_fast_and_keep_their_bits() -> None:
    affine, crop = RandomAffine(rotate=20, shift=1), RandomCropFlip(crop=1, flip=True)
    listed, direct = digits(transforms=[affine]), digits()
    direct.dataset = direct.dataset.augmented(affine)
    assert torch.equal(first(listed)[0], first(direct)[0])
    both = digits(transforms=[affine, crop])
    assert both.dataset.uses_sample_keys
    assert not torch.equal(first(both)[0], first(listed)[0])
    nothing = digits(transforms=[RandomAffine(), RandomCropFlip()])
    assert torch.equal(first(nothing)[0], first(digits())[0])


def test_two_of_one_list_draw_apart() -> None:
    """The same transform twice shifts by two independent amounts, which seldom are equal."""
    point = torch.zeros(1500, 1, 8, 8, dtype=torch.uint8)
    point[:, :, 4, 4] = 16
    once, twice = digits(), digits(transforms=[RandomCropFlip(crop=1), RandomCropFlip(crop=1)])
    for loader in (once, twice):
        loader.dataset.tensors[0] = point
    moved = torch.cat([batch[0] for batch in twice]).flatten(1).argmax(dim=1)
    rows = (moved // 8 - 4).float()
    assert abs((rows.abs() == 2).float().mean() - 2 / 9) < 0.04  # of 2 equal amounts it would be 2 / 3
    assert abs(rows.mean()) < 0.1


@pytest.mark.parametrize("transforms", [[v2.RandAugment()], strong()], ids=["one", "several"])
def test_each_sample_is_a_function_of_seed_epoch_and_index(transforms: list[Any]) -> None:
    usual, smaller = digits(transforms=transforms), digits(transforms=transforms, batch_size=25)
    workers = digits(transforms=transforms, num_workers=2)
    images, _ = first(usual)
    assert torch.equal(first(workers)[0], images)
    assert torch.equal(first(smaller)[0], images[:25])
    assert not torch.equal(first(digits())[0], images)
    later = usual.steps_per_epoch
    again, same = digits(transforms=transforms, shuffle=False), digits(shuffle=False)
    assert torch.equal(first(again, later)[1], first(same, later)[1])
    assert not torch.equal(first(again, later)[0], first(again, 0)[0])  # the same samples in another epoch
    assert torch.equal(first(again, later)[0], first(again, later)[0])


def test_ranks_and_micro_batches_share_a_step() -> None:
    def by_index(world: int, accumulate: int) -> dict[int, list[float]]:
        found: dict[int, list[float]] = {}
        for rank in range(world):
            loader = digits(transforms=strong())
            loader.configure(seed=3, rank=rank, world_size=world, accumulate=accumulate)
            steps = loader.iter_steps(4)
            for batch in [next(steps) for _ in range(accumulate)]:
                found |= dict(zip(batch.indices.tolist(), batch.data[0].flatten(1).tolist(), strict=True))
        return found

    assert len(by_index(1, 1)) == 50
    assert by_index(1, 1) == by_index(2, 1) == by_index(1, 2)


def test_validation_and_test_see_no_augmentation() -> None:
    options: dict[str, Any] = {"transforms": strong(), "batch_transforms": [v2.MixUp()], "validation_split": 200}
    plain, augmented = digits(validation_split=200), digits(**options)
    for of_plain, of_augmented in (
        (plain.split_validation(), augmented.split_validation()),
        (digits(training=False).for_testing(), digits(**options | {"training": False}).for_testing()),
    ):
        for one, other in zip(whole(of_plain), whole(of_augmented), strict=True):
            assert torch.equal(one, other)


def test_eval_transforms_are_for_evaluation_alone() -> None:
    loader = digits(eval_transforms=[v2.Resize(16)], validation_split=100, valid_dataset=None)
    assert first(loader)[0].shape == (50, 1, 8, 8)
    assert whole(loader.split_validation())[0].shape == (100, 1, 16, 16)
    assert whole(loader.for_testing())[0].shape == (1500, 1, 16, 16)
    own = BaseDataLoader(
        [torch.zeros(1, 4, 4)] * 8, 4, valid_dataset=[torch.zeros(1, 4, 4)], eval_transforms=[v2.Resize(2)]
    )
    assert next(iter(own.split_validation())).shape == (1, 1, 2, 2)


def test_images_in_memory_come_as_bytes_and_are_normalized_at_the_end() -> None:
    seen = Sums()
    loader = digits(transforms=[seen], shuffle=False)
    images, _ = first(loader)
    assert seen.seen == [((1, 8, 8), torch.uint8)] * 50
    raw, _ = first(digits(shuffle=False))
    assert (images - raw).abs().max() < 0.5 / 255 / 0.375 + 1e-6  # rounded to 255 steps
    own = digits(transforms=[v2.Normalize([0.5], [0.5])], shuffle=False)  # of values 0..1
    torch.testing.assert_close(first(own)[0] * 0.5 + 0.5, images * 0.375 + 0.305, rtol=0, atol=1e-6)
    assert normalization(own) == ([0.5], [0.5])


def test_no_transform_changes_the_data() -> None:
    before = digits().dataset.tensors[0].clone()
    loader = digits(transforms=[v2.RandomErasing(p=1.0, inplace=True)])
    first(loader)
    assert torch.equal(loader.dataset.tensors[0], before)


class Pictures(Dataset):
    """Pictures of PIL, as torchvision's data sets give them."""

    classes = ["a", "b"]

    def __init__(self, mode: str = "RGB") -> None:
        self.mode, self.level = mode, 200

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.new(self.mode, (10, 8), self.level if self.mode == "L" else (self.level, 0, index)), index % 2


@pytest.mark.parametrize("mode, channels", [("RGB", 3), ("L", 1)])
def test_pictures_become_tensors(mode: str, channels: int) -> None:
    loader = BaseDataLoader(Pictures(mode), 3, transforms=[v2.RandomHorizontalFlip()], shuffle=False)
    images, labels = first(loader)
    assert images.shape == (3, channels, 8, 10)
    assert images.dtype == torch.uint8
    assert (images[:, 0] == 200).all()
    assert labels.tolist() == [0, 1, 0]
    assert loader.facts["class_names"] == ["a", "b"]


def test_a_wrapped_data_set_has_its_attributes_and_takes_changes() -> None:
    loader = BaseDataLoader(Pictures(), 3, transforms=[v2.Identity()], shuffle=False)
    assert loader.dataset.classes == ["a", "b"]
    loader.dataset.level = 90
    assert first(loader)[0][0, 0, 0, 0] == 90
    assert pickle.loads(pickle.dumps(loader.dataset)).level == 90
    assert not hasattr(loader.dataset, "nothing")


class Boxes(Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Any]]:
        box = tv_tensors.BoundingBoxes([[0, 0, 2, 2]], format="XYXY", canvas_size=(4, 8))
        return tv_tensors.Image(torch.zeros(3, 4, 8)), {"boxes": box, "label": index}


def test_boxes_and_masks_move_with_the_image() -> None:
    flipped = Augmented(Boxes(), [v2.RandomHorizontalFlip(p=1.0)])[1]
    assert flipped[1]["boxes"].tolist() == [[6, 0, 8, 2]]
    assert flipped[1]["label"] == 1
    mask = tv_tensors.Mask(torch.eye(4))
    image, moved = Augmented([(torch.eye(4)[None], mask)], [v2.RandomHorizontalFlip(p=1.0)])[0]
    assert torch.equal(image[0], moved)
    as_dict = Augmented([{"image": torch.eye(4)[None], "label": 3}], [v2.RandomHorizontalFlip(p=1.0)])[0]
    assert torch.equal(as_dict["image"][0], torch.eye(4).flip(1))


def test_what_fails_is_named() -> None:
    loader = digits(transforms=[v2.RandomCrop(20)], shuffle=False)
    with pytest.raises(
        SampleError, match=r"sample 0 could not be read: TransformError: RandomCrop failed for uint8 \[1, 8, 8\]: "
    ):
        first(loader)
    with pytest.raises(SampleError, match=r"<lambda> failed for .*: TypeError: it returned None"):
        first(digits(transforms=[lambda image: None]))
    with pytest.raises(
        SampleError, match=r"ToTensor failed .*; transforms get tensors \[C, H, W\] \(leave out ToTensor"
    ):
        first(digits(transforms=[ToTensor()]))


def test_a_transform_of_albumentations_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    class Compose:
        def __call__(self, *args: Any, **data: Any) -> dict[str, Any]:
            raise KeyError("You have to pass data to augmentations as named arguments")

    monkeypatch.setattr(Compose, "__module__", "albumentations.core.composition")
    with pytest.raises(SampleError, match=r"Compose failed .*; call it in a function in data_loader/transforms\.py"):
        first(digits(transforms=[Compose()]))


@pytest.mark.parametrize("option, given, said", [
    ("transforms", [v2.MixUp()], "data_loader: MixUp mixes the samples of a batch, but `transforms` get one sample"),
    ("transforms", [v2.Compose([v2.CutMix()])], "data_loader: CutMix mixes the samples of a batch"),
    ("transforms", [3], "data_loader: transforms has an object of type int, which cannot be called"),
    ("batch_transforms", ["MixUp"], "data_loader: batch_transforms has an object of type str"),
])  # fmt: skip
def test_what_is_no_transform(option: str, given: list[Any], said: str) -> None:
    with pytest.raises(UsageError, match=f"^{said}"):
        digits(**{option: given})


# -- batches ----------------------------------------------------------------------------------------------------------


def test_mixed_batches_are_a_function_of_seed_epoch_and_first_sample() -> None:
    loader = digits(batch_transforms=[v2.MixUp(alpha=0.8)])
    images, targets = first(loader)
    assert targets.shape == (50, 10)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(50))
    plain, labels = first(digits())
    key = mix(3, 0, int(loader.indices(0)[0]), -4)
    torch.manual_seed(key)
    share = float(torch.distributions.Dirichlet(torch.tensor([0.8, 0.8])).sample()[0])  # how torchvision draws Beta
    torch.testing.assert_close(images, share * plain + (1 - share) * plain.roll(1, 0))
    assert torch.equal(first(digits(batch_transforms=[v2.MixUp(alpha=0.8)], num_workers=2))[0], images)
    mixing = loader.batch_transforms
    assert mixing is not None
    assert mixing.labels(targets).tolist() == torch.where(torch.tensor(share > 0.5), labels, labels.roll(1)).tolist()


def test_two_ranks_mix_as_two_micro_batches() -> None:
    def micro_batches(rank: int, world: int, accumulate: int) -> list[Tensor]:
        loader = digits(batch_transforms=[v2.CutMix()], transforms=strong())
        loader.configure(seed=3, rank=rank, world_size=world, accumulate=accumulate)
        steps = loader.iter_steps(5)
        return [next(steps).data[0] for _ in range(accumulate)]

    alone = micro_batches(0, 1, 2)
    assert torch.equal(torch.cat(alone), torch.cat(micro_batches(0, 2, 1) + micro_batches(1, 2, 1)))


def test_transforms_of_whole_batches_run_on_the_device_too() -> None:
    loader = digits(batch_transforms=[RandomAffine(rotate=30)])
    images, labels = first(loader)
    assert not torch.equal(images, first(digits())[0])
    assert torch.equal(images, first(loader)[0])
    assert labels.dim() == 1


def test_the_number_of_classes_must_be_known() -> None:
    data = [(torch.zeros(1, 4, 4), 0)] * 8
    with pytest.raises(UsageError, match=r"data_loader: MixUp needs the number of classes, .* args: {num_classes: N}"):
        first(BaseDataLoader(data, 4, batch_transforms=[v2.MixUp()]))
    assert first(BaseDataLoader(data, 4, batch_transforms=[v2.MixUp(num_classes=3)]))[1].shape == (4, 3)
    with pytest.raises(
        SampleError, match=r"batch_transforms failed for the batch .*take a batch \(inputs, targets\), got"
    ):
        first(BaseDataLoader([torch.zeros(1, 4, 4)] * 8, 4, batch_transforms=[v2.MixUp(num_classes=3)]))


@pytest.mark.parametrize("sample, transform, said", [
    ((torch.zeros(1, 4, 4), 0.5), v2.CutMix(num_classes=3), r"CutMix mixes class numbers, int64 \[B\], .*float64"),
    ((torch.zeros(1, 4, 4).byte(), 0), v2.MixUp(num_classes=3), r"MixUp needs floats, got uint8 .*ToDtype"),
    ((torch.zeros(1, 4, 4), 0), lambda images, labels: images, r"<lambda> returned float32 .*return \(inputs, "),
    ((torch.zeros(1, 4, 4), 0), lambda images, labels: None, r"<lambda> returned None; return \(inputs, targets\)"),
])  # fmt: skip
def test_batches_that_do_not_fit_are_named(sample: Any, transform: Any, said: str) -> None:
    with pytest.raises(SampleError, match=f"batch_transforms failed for the batch .*{said}"):
        first(BaseDataLoader([sample] * 8, 4, batch_transforms=[transform]))


# -- whole runs -------------------------------------------------------------------------------------------------------

IMAGES = ["arch={type: ConvNet, args: {widths: [4], depth: 1}}"]


def options(**args: Any) -> list[str]:
    return [*IMAGES, *(f"data_loader.args.{name}={value}".replace("'", "") for name, value in args.items())]


def test_runs_have_the_same_bits_with_workers_and_after_a_resume(tiny: Tiny) -> None:
    given = options(transforms=STRONG, batch_transforms=MIXED)
    ends = [
        tiny.train(*given, run="whole"),
        tiny.train(*given, "data_loader.args.num_workers=2", run="workers"),
        tiny.train(*given, "trainer.epochs=1", run="cut")
        and tiny.train(*given, run="cut", checkpoint="checkpoint-step6.pth"),
    ]
    weights = [end.model.state_dict() for end in ends]
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name])
        assert torch.equal(tensor, weights[2][name])
    assert tiny.points("train", "whole") == tiny.points("train", "workers") == tiny.points("train", "cut")
    plain = tiny.train(*IMAGES, run="plain")
    assert not torch.equal(next(plain.model.parameters()), next(ends[0].model.parameters()))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_run_goes_on_with_the_same_bits(workers: int, tmp_path: Path) -> None:
    spec = killed_config(
        data_loader__args__transforms=STRONG, data_loader__args__batch_transforms=MIXED,
        data_loader__args__num_workers=workers,
    )  # fmt: skip
    house, undisturbed = House(tmp_path / "a", spec), House(tmp_path / "b", spec)
    undisturbed.train()
    house.train(patch=at_step(9, die), code=137)
    house.train()
    same_end(house, undisturbed)


def test_training_metrics_count_the_larger_of_the_mixed_labels(tiny: Tiny) -> None:
    """Of any metric, also one that compares labels; the loss is that of the mixed targets."""
    given = options(batch_transforms=["MixUp"])
    once = ["trainer.log_steps=1", "trainer.max_steps=1", "trainer.epochs=null"]
    trainer = tiny.train(*given, *once, "metrics=[accuracy, top_k_acc]")
    point = tiny.points("train")[0]
    loader = DigitsDataLoader(batch_size=28, validation_split=100, batch_transforms=[v2.MixUp()])
    loader.configure(seed=trainer.seed)
    inputs, targets = first(loader)
    fresh = tiny.build(*given, run="fresh")
    fresh.model.train()
    outputs = fresh.model(inputs)
    assert point["accuracy"] == pytest.approx((outputs.argmax(1) == targets.argmax(1)).float().mean().item())
    assert point["loss"] == pytest.approx(torch.nn.functional.cross_entropy(outputs, targets).item(), rel=1e-4)
    assert point["top_k_acc"] >= point["accuracy"]


def test_a_loss_that_takes_no_probabilities(tiny: Tiny) -> None:
    with pytest.raises(UsageError, match=r"^loss: it failed for targets \[28, 10\], the prob"):
        tiny.train(*options(batch_transforms=["MixUp"]), "loss=nll_loss")


@pytest.mark.parametrize("given", [{"transforms": STRONG}, {"transforms": STRONG, "batch_transforms": ["MixUp"]}])
def test_the_picture_of_the_first_inputs_shows_what_the_model_gets(given: dict[str, Any], tiny: Tiny) -> None:
    """With the normalization undone: black is black, whatever else is in the batch."""
    trainer = tiny.build(*options(**given))
    shown: list[Tensor] = []
    trainer.reporter.writers, trainer.reporter.picture = [None], lambda name, picture, step: shown.append(picture)
    stream = trainer.data_loader.iter_steps(0)
    inputs, targets = next(stream).data
    trainer.run_step(trainer.data_loader.iter_steps(0))
    expected = (inputs * 0.375 + 0.305).clamp(0, 1)
    labels = captions(targets, [str(digit) for digit in range(10)])
    assert torch.equal(shown[0], image_grid(inputs[:64], normalization=([0.305], [0.375]), labels=labels))
    plain = image_grid(inputs, normalization=([0.305], [0.375]))
    torch.testing.assert_close(plain[:, 2:10, 2:10], expected[0])
    assert inputs.std() > 0.2
    trainer.run.close()


def test_a_check_of_augmentation(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    """train.py --check: two steps and a resume that is bit-equal."""
    config = load([copy.deepcopy(CONFIG)], options(transforms=STRONG, batch_transforms=MIXED))
    config.check()
    check.check(config, train.build, None)
    assert "a resume is bit-equal" in capsys.readouterr().out


@pytest.mark.slow
def test_torchvision_is_imported_only_for_its_names() -> None:
    code = (
        "import sys; from utils.config import load\n"
        "def check(*o):\n    c = load(['config/digits.yaml'], o); c.check(); c.build('data_loader')\n"
        "check('data_loader.args.transforms=[RandomAffine, {type: RandomCropFlip, args: {flip: true}}]')\n"
        "assert 'torchvision' not in sys.modules\n"
        "check('data_loader.args.transforms=[RandAugment]')\nassert 'torchvision' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
