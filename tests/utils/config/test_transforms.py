# ruff: noqa: E501  (messages and configs stand here as people see them)
"""Lists of transforms in a config: which names count, how they are bound, and what is said of the others."""

from pathlib import Path

import pytest
from torchvision.transforms import v2

from tests.house import house  # noqa: F401
from tests.utils.config.test_names import problem, write
from utils.config import Config, ConfigError, load

LOADER = """
from collections.abc import Callable
from typing import Any
from data_loader.data_loaders import Letters
class Images(Letters):
    def __init__(self, data_dir: str = "", transforms: list[Callable[..., Any]] | None = None, batch_size: int = 4):
        self.transforms = transforms
"""
TRANSFORMS = """
import functools
from os import system
from torchvision.transforms import v2
class Noise:
    def __init__(self, sigma: float = 1.0): self.sigma = sigma
    def __call__(self, image): return image + self.sigma
class Either(Noise):
    def __init__(self, transforms: list): self.transforms = transforms
class Quiet:
    def __init__(self, sigma: float): ...
def brighter(image, by: float = 1.0): return image + by
def strong(size: int): return v2.Compose([v2.CenterCrop(size)])
double = functools.partial(brighter, by=2.0)
fixed = v2.Compose([v2.CenterCrop(3)])
"""


@pytest.fixture
def project(house: Path) -> Path:  # noqa: F811
    write(house, "data_loader/transforms.py", TRANSFORMS)
    write(house, "data_loader/images.py", LOADER)
    return house


def config(transforms: str) -> Config:
    return load(
        ["x.yaml"], [f"data_loader={{type: Images, args: {{transforms: {transforms}}}}}", "trainer.monitor=off"]
    )


def built(transforms: str) -> list:
    made = config(transforms)
    made.check()
    return made.build("data_loader").transforms


def test_yours_come_first_then_torchvision(project: Path) -> None:
    noise, flip, crop = built("[Noise, RandomHorizontalFlip, {type: CenterCrop, args: {size: 4}}]")
    assert noise.sigma == 1.0
    assert type(flip) is v2.RandomHorizontalFlip
    assert tuple(crop.size) == (4, 4)
    write(project, "data_loader/flips.py", "class RandomHorizontalFlip:\n    def __call__(self, image): return image")
    assert built("[RandomHorizontalFlip]")[0](1) == 1


def test_functions_and_objects(project: Path) -> None:
    """A function of an image is the transform, any other one builds it; an object that can be called is one already."""
    brighter, more, double, fixed, strong = built(
        "[brighter, {type: brighter, args: {by: 3}}, double, fixed, {type: strong, args: {size: 5}}]"
    )
    assert (brighter(1.0), more(1.0), double(1.0)) == (2.0, 4.0, 3.0)
    assert tuple(fixed.transforms[0].size) == (3, 3)
    assert tuple(strong.transforms[0].size) == (5, 5)


def test_parts_in_parts(project: Path) -> None:
    apply, choice, own = built(
        "[{type: RandomApply, args: {p: 0.3, transforms: [Noise, {type: Compose, args: {transforms: [RandAugment]}}]}},"
        " {type: RandomChoice, args: {transforms: [MixUp, {type: CutMix, args: {alpha: 0.5}}]}},"
        " {type: Either, args: {transforms: [{type: Noise, args: {sigma: 2}}]}}]"
    )
    assert apply.p == 0.3
    assert type(apply.transforms[0]).__name__ == "Noise"
    assert type(apply.transforms[1].transforms[0]) is v2.RandAugment
    assert [type(t) for t in choice.transforms] == [v2.MixUp, v2.CutMix]
    assert own.transforms[0].sigma == 2.0


def test_lists_become_what_the_annotations_want(project: Path) -> None:
    jitter, normalize, convert, augment = built(
        "[{type: ColorJitter, args: {brightness: 0.5, hue: [-0.1, 0.1]}}, {type: Normalize, args: {mean: [0.5], std: [1]}},"
        " {type: ToDtype, args: {dtype: float32, scale: true}}, {type: AutoAugment, args: {policy: CIFAR10}}]"
    )
    assert jitter.brightness == (0.5, 1.5)
    assert (normalize.mean, normalize.std) == ([0.5], [1.0])
    assert str(convert.dtype) == "torch.float32"
    assert augment.policy is v2.AutoAugmentPolicy.CIFAR10


@pytest.mark.parametrize(
    "transforms, said",
    [
        ("[RandAugmnt]", "data_loader.args.transforms.0: unknown name 'RandAugmnt' (did you mean 'RandAugment'?); data_loader/ has Noise, Either; torchvision.transforms.v2 has "),
        ("[RandAugment, {type: RandomErasing, args: {q: 0.5}}]", "data_loader.args.transforms.1.args.q: unknown argument 'q' (did you mean 'p'?); RandomErasing accepts "),
        ("[{type: RandAugment, args: {nun_ops: 3}}]", "data_loader.args.transforms.0.args.nun_ops: unknown argument 'nun_ops' (did you mean 'num_ops'?)"),
        ("[{type: RandAugment, args: {num_ops: many}}]", 'data_loader.args.transforms.0.args.num_ops: got "many", expected an integer'),
        ("[{type: RandomApply, args: {transforms: [Nois]}}]", "data_loader.args.transforms.0.args.transforms.0: unknown name 'Nois' (did you mean 'Noise'?)"),
        ("[CenterCrop]", "data_loader.args.transforms.0: argument 'size' is missing; CenterCrop accepts size"),
        ("[os.system]", "data_loader.args.transforms.0: unknown name 'os.system'; to use one of another library, import it in data_loader/transforms.py"),
        ("[system]", "data_loader.args.transforms.0: unknown name 'system'; data_loader/transforms.py imports it, but it is not recognizably a class whose objects"),
        ("[Quiet]", "data_loader.args.transforms.0: 'Quiet' in data_loader/transforms.py:10 does not fit: it is another kind of class; expected a class whose objects are called with an image"),
        ("[Letters]", "data_loader.args.transforms.0: 'Letters' in data_loader/data_loaders.py:4 does not fit: it is another kind of class"),
        ("[3]", "data_loader.args.transforms: got [3], expected a list, each entry NAME or {type: NAME, args: {...}}"),
        ("RandAugment", 'data_loader.args.transforms: got "RandAugment", expected a list'),
        ("[{brighter: {by: 2}}]", 'data_loader.args.transforms: got [{"brighter": {"by": 2}}], unknown key'),
    ],
)  # fmt: skip
def test_errors_have_their_line(project: Path, transforms: str, said: str) -> None:
    (project / "y.yaml").write_text(
        f"data_loader:\n  type: Images\n  args:\n    data_dir: x\n    transforms: {transforms}\ntrainer: {{monitor: off}}\n"
    )
    with pytest.raises(ConfigError) as error:
        load(["x.yaml", "y.yaml"]).check()
    message = str(error.value)
    assert message.startswith(f"y.yaml:5: {said}"), message
    assert "\n" not in message


def test_where_a_callable_is_wanted_elsewhere_a_name_is_enough_too(project: Path) -> None:
    write(
        project,
        "model/more.py",
        "from collections.abc import Callable\nfrom torch import nn\nclass Holder(nn.Module):\n"
        "    def __init__(self, norm: Callable[..., nn.Module] = nn.LayerNorm):\n        super().__init__()\n"
        "        self.made = norm(4)",
    )
    made = load(["x.yaml"], ["arch={type: Holder, args: {norm: BatchNorm1d}}"])
    made.check()
    assert type(made.build("arch").made).__name__ == "BatchNorm1d"
    assert "unknown name 'BatchNorm' (did you mean" in problem("arch={type: Holder, args: {norm: BatchNorm}}")
