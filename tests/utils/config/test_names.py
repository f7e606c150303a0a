"""Where a name is found: in any file at the top of its room, then in a library; and what counts as a part."""

import functools
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.house import house  # noqa: F401
from utils.config import Config, ConfigError, load, names
from utils.config.sections import SECTIONS


def write(house: Path, name: str, text: str) -> None:  # noqa: F811
    """A file of the project in `house`."""
    file = house.parent / "house" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def config(*overrides: str) -> Config:
    return load(["x.yaml"], overrides)


def problem(*overrides: str) -> str:
    """The one error of the config check."""
    with pytest.raises(ConfigError) as error:
        config(*overrides).check()
    assert len(error.value.problems) == 1
    return error.value.problems[0]


# -- where ------------------------------------------------------------------------------------------------------------

ELSEWHERE = [
    ("arch", "model/mine.py", "from torch import nn\nclass Mine(nn.Module): ..."),
    ("loss", "model/losses.py", "def Mine(output, target): ..."),
    ("metrics", "model/mine.py", "def Mine(output, target): ..."),
    ("optimizer", "trainer/mine.py", "from torch.optim import SGD\nclass Mine(SGD): ..."),
    ("lr_scheduler", "trainer/mine.py", "def Mine(optimizer): ..."),
    ("trainer", "trainer/mine.py", "from trainer.trainer import Trainer\nclass Mine(Trainer): ..."),
    ("callbacks", "trainer/callbacks/mine.py", "class Mine:\n    def after_epoch(self, trainer): ..."),
    ("callbacks", "trainer/mine.py", "class Mine:\n    def after_eval_batch(self, trainer, batch, outputs): ..."),
    (
        "data_loader",
        "data_loader/mine.py",
        "from data_loader.data_loaders import Letters\nclass Mine(Letters): ...",
    ),
]


def test_a_file_that_cannot_be_imported(house: Path) -> None:  # noqa: F811
    write(house, "model/my-net.py", "from torch import nn\nclass DashNet(nn.Module): ...")
    said = r"'DashNet'; model/my-net\.py has it, but this file cannot be imported: rename it to my_net\.py; model/ has "
    with pytest.raises(LookupError, match=said):
        names.find("arch", "DashNet")


@pytest.mark.parametrize("section, file, text", ELSEWHERE, ids=[f"{s} in {f}" for s, f, _ in ELSEWHERE])
def test_any_file_of_a_room_will_do(house: Path, section: str, file: str, text: str) -> None:  # noqa: F811
    write(house, file, text)
    assert names.find(section, "Mine").__name__ == "Mine"
    assert "Mine" in names.own_names(section)


def test_only_the_file_that_has_the_name_is_imported(house: Path) -> None:  # noqa: F811
    write(house, "model/broken.py", "raise RuntimeError('imported')\nclass Broken: ...")
    write(house, "model/unreadable.py", "class Unreadable(:\n")
    config().check()
    assert "model.broken" not in sys.modules
    with pytest.raises(RuntimeError, match="imported"):
        names.find("arch", "Broken")
    with pytest.raises(SyntaxError):
        names.find("arch", "Unreadable")
    assert "did you mean 'Net'?" in problem("arch.type=Nte")


def test_a_folder_of_a_room_is_not_searched(house: Path) -> None:  # noqa: F811
    write(house, "trainer/engine/more.py", "from trainer.trainer import Trainer\nclass Mine(Trainer): ...")
    with pytest.raises(LookupError):
        names.find("trainer", "Mine")


def test_a_name_defined_twice_is_an_error(house: Path) -> None:  # noqa: F811
    write(house, "model/more.py", "\nfrom torch import nn\nclass Net(nn.Module): ...")
    assert "'Net' is defined in model/model.py:7 and model/more.py:3; rename one of them" in problem()


def test_an_import_is_not_a_second_definition(house: Path) -> None:  # noqa: F811
    write(house, "model/more.py", "from model.model import Net\nclass Wider(Net): ...")
    config().check()
    write(house, "model/again.py", "try:\n    Pair = int\nexcept ImportError:\n    Pair = str\n")
    with pytest.raises(LookupError, match="does not fit"):  # and not "defined in ..."
        names.find("arch", "Pair")


def test_what_code_puts_into_a_module_is_found(house: Path) -> None:  # noqa: F811
    import model.model

    class Added(nn.Module): ...

    vars(model.model)["Added"] = Added
    assert names.find("arch", "Added") is Added


# -- what counts ------------------------------------------------------------------------------------------------------


def test_a_definition_wins_over_a_library(house: Path) -> None:  # noqa: F811
    """Without annotations too, where torchvision's and torch's own would be used otherwise."""
    write(house, "model/more.py", "from torch import nn\ndef resnet34(num_classes): return nn.Linear(2, num_classes)")
    write(house, "model/loss.py", "def L1Loss(a, b): return 7\ndef nll(a, b): ...")
    write(house, "trainer/optim.py", "import torch\ndef SGD(p, lr): return torch.optim.Adam(p, lr)\nLion = SGD\n")
    made = config(
        "arch={type: resnet34, args: {num_classes: 3}}", "loss=L1Loss", "optimizer={type: SGD, args: {lr: 1}}"
    )
    made.check()
    assert made.build("arch").out_features == 3
    assert made.build("loss")(0, 0) == 7
    assert type(made.build("optimizer", [torch.zeros(1)])) is torch.optim.Adam


def test_metrics_of_every_kind(house: Path) -> None:  # noqa: F811
    """Most are not in torchmetrics itself, but in a module of it."""
    torchmetrics = pytest.importorskip("torchmetrics", reason="the extra `metrics`")
    [made] = config("metrics=[{type: MulticlassF1Score, args: {num_classes: 3}}]").build("metrics")
    assert isinstance(made, torchmetrics.classification.MulticlassF1Score)
    for name in ("MeanAveragePrecision", "DiceScore", "ROUGEScore", "PeakSignalNoiseRatio", "AdjustedRandScore"):
        config(f"metrics=[{name}]").check()


INSTANCES = """
import functools
from torch import nn
from model.model import Net

class Focal(nn.Module):
    def __init__(self, gamma: float = 2.0):
        super().__init__()
        self.gamma = gamma
    def forward(self, output, target): return self.gamma

class Called:
    def __call__(self, output, target): return "called"

class F1:
    def __init__(self): self.sum = 0
    def update(self, output, target): ...
    def compute(self): ...
    def reset(self): ...

def power(output, target, exponent: int): return exponent

small = functools.partial(Net, width=2)
focal3, focal4 = Focal(3.0), functools.partial(Focal, gamma=4.0)
called, f1 = Called(), F1()
cube = functools.partial(power, exponent=3)
"""


def test_instances_and_partials(house: Path) -> None:  # noqa: F811
    write(house, "model/more.py", INSTANCES)
    made = config("arch={type: small, args: {classes: 5}}", "metrics=[cube, called, f1, Called]", "loss=focal3")
    made.check()
    assert type(made.build("arch")).__name__ == "Net"
    assert made.build("loss")(0, 0) == 3
    cube, called, f1, second = made.build("metrics")
    assert (cube(0, 0), called(0, 0), second(0, 0)) == (3, "called", "called")
    f1.sum = 1
    assert made.build("metrics")[2].sum == 0  # each run gets its own
    assert config("loss=focal4").build("loss")(0, 0) == 4
    assert config("loss={type: focal4, args: {gamma: 5}}").build("loss")(0, 0) == 5
    assert config("metrics=[{type: cube, args: {exponent: 2}}]").build("metrics")[0](0, 0) == 2
    assert "'width' is missing" in problem("arch=Net")
    assert "unknown argument 'exponnt' (did you mean 'exponent'?)" in problem(
        "metrics=[{type: cube, args: {exponnt: 2}}]"
    )


UNFIT = [
    ("arch", "Mine = 'a string'", "it is an object of type str"),
    ("arch", "class Mine: ...", "it is another kind of class"),
    ("arch", "from torch import nn\nMine = nn.Linear(1, 1)", "it is an object of type Linear"),
    ("loss", "def Mine(output): ...", "it takes (output)"),
    ("loss", "class Mine: ...", "it is another kind of class"),
    (
        "loss",
        "from torch import nn\nclass Mine(nn.Module):\n    def forward(self, x): ...",
        "its forward takes other arguments",
    ),
    ("metrics", "Mine = 3", "it is an object of type int"),
    ("metrics", "class Mine:\n    def update(self, output, target): ...", "it is another kind of class"),
    ("optimizer", "def Mine(): ...", "it takes no arguments"),
    ("data_loader", "class Mine: ...", "it is another kind of class"),
    ("callbacks", "class Mine:\n    def step(self): ...", "it is another kind of class"),
    ("trainer", "class Mine: ...", "it is another kind of class"),
]


@pytest.mark.parametrize("section, text, why", UNFIT)
def test_a_definition_that_does_not_fit_says_why(house: Path, section: str, text: str, why: str) -> None:  # noqa: F811
    room = SECTIONS[section].rooms[0]
    write(house, f"{room}/mine.py", text)
    key = {"metrics": "metrics=[Mine]", "callbacks": "callbacks=[Mine]"}.get(section, f"{section}.type=Mine")
    line = text.count("\n", 0, text.index("Mine")) + 1
    expected = SECTIONS[section].expected
    assert f"'Mine' in {room}/mine.py:{line} does not fit: {why}; expected {expected}" in problem(key)


def test_an_import_must_be_recognizable(house: Path) -> None:  # noqa: F811
    """Otherwise a stranger's config could call whatever the project's files import."""
    write(
        house,
        "model/more.py",
        "from shutil import copy, rmtree\nfrom torch import load\nfrom torch.nn.functional import cross_entropy\n"
        "from torch.nn import Bilinear\nfrom torchvision.models import resnet18 as small_net\n",
    )
    assert names.find("arch", "Bilinear") is nn.Bilinear
    assert names.find("arch", "small_net").__name__ == "resnet18"
    assert names.find("loss", "cross_entropy") is nn.functional.cross_entropy
    for name in ("copy", "rmtree", "load", "small_net"):
        with pytest.raises(LookupError, match=r"model/more\.py imports it, but it is not recognizably"):
            names.find("loss", name)


def test_suggestions_are_of_the_right_kind(house: Path) -> None:  # noqa: F811
    write(house, "model/more.py", "def acuracy_helper(): ...\nlimit = 3\n")
    assert list(names.own_names("metrics")) == ["accuracy", "top_k"]
    assert list(names.own_names("loss")) == ["nll"]
    assert list(names.own_names("arch")) == ["Net", "WideNet"]
    assert list(names.own_names("optimizer")) == ["Lion"]
    assert list(names.own_names("lr_scheduler")) == ["Warmup"]
    assert sorted(names.own_names("trainer")) == ["GANTrainer", "Trainer"]


BUILT = [
    ("arch", "def Mine(): return {}", "dict"),
    ("arch", "def Mine(): ...", "null"),
    ("data_loader", "def Mine(data_dir, batch_size, validation_split): return []", "list"),
    ("optimizer", "def Mine(params, lr): return params", "list"),
    ("lr_scheduler", "def Mine(optimizer): return optimizer", "list"),
    ("callbacks", "def Mine(): return 1", "int"),
    ("trainer", "def Mine(): return 1", "int"),
]


@pytest.mark.parametrize("section, text, kind", BUILT)
def test_what_a_function_builds_is_checked(house: Path, section: str, text: str, kind: str) -> None:  # noqa: F811
    write(house, f"{SECTIONS[section].rooms[0]}/mine.py", text)
    key = {"callbacks": "callbacks=[Mine]", "arch": "arch=Mine", "lr_scheduler": "lr_scheduler=Mine"}
    made = config(key.get(section, f"{section}.type=Mine"))
    given: list[Any] = [[]] if SECTIONS[section].first else []
    with pytest.raises(ConfigError) as error:
        made.build(section, *given)
    built = "null" if kind == "null" else f"an object of type {kind}"
    assert str(error.value).endswith(f"Mine: it built {built}; expected {SECTIONS[section].expected}")


# -- arguments --------------------------------------------------------------------------------------------------------


def test_constructors_get_copies(house: Path) -> None:  # noqa: F811
    write(
        house,
        "model/more.py",
        "from torch import nn\nclass Popping(nn.Module):\n    def __init__(self, opts):\n"
        "        super().__init__()\n        self.depth = opts.pop('depth')\n        opts['sizes'].append(3)\n"
        "def scaled(output, target, by): return by.pop()",
    )
    made = config("arch={type: Popping, args: {opts: {depth: 4, sizes: [1]}}}", "loss={type: scaled, args: {by: [2]}}")
    before = made.to_dict()
    for _ in range(2):
        assert made.build("arch").depth == 4
        assert made.build("loss")(0, 0) == 2
    assert made.to_dict() == before


def test_a_partial_has_a_signature(house: Path) -> None:  # noqa: F811
    def function(a: int, b: int = 1, *, c: int = 2) -> None: ...

    signature = names.signature_of(functools.partial(function, 5, c=6))
    assert {name: p.default for name, p in signature.parameters.items()} == {"b": 1, "c": 6}


def test_a_class_that_chooses_in_new_has_its_signature(house: Path) -> None:  # noqa: F811
    """As torchmetrics.Accuracy does."""
    text = "    def update(self, output, target): ...\n    def compute(self): ...\n    def reset(self): ...\n"
    write(
        house,
        "model/more.py",
        f"class Binary:\n    def __init__(self, **kwargs): ...\n{text}"
        "class Rate(Binary):\n    def __new__(cls, task: str, num_classes: int = 0): return Many(num_classes)\n"
        f"class Many:\n    def __init__(self, n): self.n = n\n{text}",
    )
    made = config("metrics=[{type: Rate, args: {task: a}}]")
    made.check()
    made.facts = {"num_classes": 4}
    assert made.build("metrics")[0].n == 4
    assert "unknown argument 'taks' (did you mean 'task'?)" in problem("metrics=[{type: Rate, args: {taks: a}}]")


def test_built_in_functions(house: Path) -> None:  # noqa: F811
    write(house, "model/more.py", "import torch\nDistance = torch.dist\n")
    assert config("loss=Distance").build("loss") is torch.dist
