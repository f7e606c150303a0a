# ruff: noqa: E501  (messages and configs stand here as people see them)
"""Parts in the arguments of parts; what a constructor raises; what the scripts give that a part does not accept."""

import functools
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.house import house  # noqa: F401
from tests.utils.config.test_names import config, problem, write
from utils.config import Config, ConfigError, load
from utils.errors import DataError, Stopped

# -- nested parts -----------------------------------------------------------------------------------------------------

MODEL = """
from collections.abc import Callable
from typing import TYPE_CHECKING
import torch
from torch import nn

if TYPE_CHECKING:
    from somewhere import Unknown

class Encoder(nn.Module):
    def __init__(self, width: int = 3, num_classes: int = 5):
        super().__init__()
        self.width, self.num_classes = width, num_classes

class Decoder(nn.Module):
    def __init__(self, num_classes: int):
        super().__init__()
        self.num_classes = num_classes

class Scale:
    def __init__(self, by: float): self.by = by

def sized(output, target, margin: float = 0.0): return margin

class Holder(nn.Module):
    def __init__(self, encoder: "Encoder | None" = None, decoder=None, act: "nn.Module | None" = None, scale=None,
                 layers: "list[nn.Module]" = (), options: "dict | None" = None, norm: Callable[..., nn.Module] = None,
                 dtype: "torch.dtype | None" = None, other: "Unknown | None" = None, kind: "type[nn.Module]" = None):
        super().__init__()
        self.got = dict(encoder=encoder, decoder=decoder, act=act, scale=scale, layers=layers, options=options,
                        norm=norm, dtype=dtype, other=other, kind=kind)

class Sum(nn.Module):
    def __init__(self, losses: list, weight: "torch.Tensor | None" = None):
        super().__init__()
        self.losses, self.weight = losses, weight
    def forward(self, output, target): ...
"""


@pytest.fixture
def project(house: Path) -> Path:  # noqa: F811
    write(house, "model/more.py", MODEL)
    return house


def held(**args: str) -> Config:
    made = config(f"arch={{type: Holder, args: {{{', '.join(f'{k}: {v}' for k, v in args.items())}}}}}")
    made.check()
    return made


def test_objects_are_built(project: Path) -> None:
    made = held(
        encoder="{type: Encoder, args: {width: 1e1}}", act="{type: GELU, args: {approximate: tanh}}",
        scale="{type: Scale, args: {by: 2}}", layers="[{type: Linear, args: {in_features: 2, out_features: 3}}]",
    )  # fmt: skip
    got = made.build("arch").got
    assert (got["encoder"].width, got["scale"].by) == (10, 2.0)
    assert repr(got["act"]) == "GELU(approximate='tanh')"
    assert got["layers"][0].weight.shape == (3, 2)
    assert made.build("arch").got["encoder"] is not got["encoder"]
    assert made.to_dict()["arch"]["args"]["scale"] == {"type": "Scale", "args": {"by": 2}}


def test_parts_in_parts(project: Path) -> None:
    made = held(decoder="{type: Holder, args: {act: {type: ReLU}, dtype: float16}}")
    inner = made.build("arch").got["decoder"].got
    assert isinstance(inner["act"], nn.ReLU)
    assert inner["dtype"] is torch.float16


def test_a_mapping_stays_one_where_it_is_wanted(project: Path) -> None:
    got = held(options="{type: GELU}", other="{type: 3}", scale="{a: {type: GELU}}").build("arch").got
    assert (got["options"], got["other"], got["scale"]) == ({"type": "GELU"}, {"type": 3}, {"a": {"type": "GELU"}})


def test_classes_where_they_are_wanted(project: Path) -> None:
    got = held(norm="{type: BatchNorm2d, args: {eps: 0.5}}", kind="{type: ReLU}").build("arch").got
    assert isinstance(got["norm"], functools.partial)
    assert (got["norm"](4).num_features, got["norm"](4).eps) == (4, 0.5)
    assert got["kind"] is nn.ReLU
    assert held(kind="ReLU").build("arch").got["kind"] is nn.ReLU


def test_an_annotation_for_type_checkers_leaves_the_others(project: Path) -> None:
    held(other="anything")
    assert 'args.dtype: got "float17", expected a dtype such as float16 or null' in problem(
        "arch={type: Holder, args: {dtype: float17}}"
    )


def test_strings_as_annotations_and_telling_defaults(project: Path) -> None:
    write(
        project,
        "model/future.py",
        "from __future__ import annotations\nfrom enum import Enum\nimport torch\nfrom torch import nn\n"
        "class Pool(Enum):\n    MEAN = 1\n    MAX = 2\n"
        "class Future(nn.Module):\n    def __init__(self, widths: tuple[int, ...] | None = None, pool=Pool.MEAN, "
        "dtype=torch.float32,\n                 options: dict[str, list[int]] | None = None, depth: 'int' = 1):\n"
        "        super().__init__()\n        self.got = widths, pool.name, dtype, options",
    )
    made = config("arch={type: Future, args: {widths: [1, 2], pool: MAX, dtype: float64, options: {a: [1]}}}")
    made.check()
    assert made.build("arch").got == ((1, 2), "MAX", torch.float64, {"a": [1]})
    assert 'args.pool: got "MIN", expected MEAN or MAX' in problem("arch={type: Future, args: {pool: MIN}}")
    assert 'args.depth: got "deep", expected an integer' in problem("arch={type: Future, args: {depth: deep}}")


def test_facts_fill_what_is_missing_inside(project: Path) -> None:
    made = held(encoder="{type: Encoder}", decoder="{type: Decoder}")
    made.facts = {"num_classes": 7}
    got = made.build("arch").got
    assert (got["encoder"].num_classes, got["decoder"].num_classes) == (5, 7)
    made.facts = {}
    with pytest.raises(ConfigError, match=r"arch=.*: argument 'num_classes' is missing; Decoder accepts num_classes$"):
        made.build("arch")


def test_losses_in_a_loss(project: Path) -> None:
    made = config(
        "loss={type: Sum, args: {losses: [{type: L1Loss}, {type: sized, args: {margin: 2}}], weight: [1, 3]}}"
    )
    made.check()
    loss = made.build("loss")
    assert isinstance(loss.losses[0], nn.L1Loss)
    assert loss.losses[1](0, 0) == 2.0
    assert loss.weight.tolist() == [1.0, 3.0]
    assert config("loss={type: CrossEntropyLoss, args: {weight: [1, 3]}}").build("loss").weight.tolist() == [1.0, 3.0]


@pytest.mark.parametrize(
    "args, said",
    [
        ("act: {type: GLU, args: {dmi: 1}}", "arch.args.act.args.dmi: unknown argument 'dmi' (did you mean 'dim'?); GLU"),
        ("act: {type: Relu}", "arch.args.act.type: unknown name 'Relu' (did you mean 'ReLU'?); model/ has "),
        ("act: {type: system}", "arch.args.act.type: unknown name 'system'"),
        ("act: {type: ReLU, arg: {}}", "arch.args.act: got {\"type\": \"ReLU\", \"arg\": {}}, expected {type: NAME, args: {..."),
        ("scale: {type: Scale}", "arch.args.scale: argument 'by' is missing; Scale accepts by"),
        ("encoder: {type: ReLU}", "arch.args.encoder: got {\"type\": \"ReLU\"}, but ReLU is not derived from Encoder"),
        ("layers: [{type: ReLU}, {type: ReLU, args: {in: 1}}]", "arch.args.layers.1.args.in: unknown argument 'in'"),
    ],
)  # fmt: skip
def test_errors_have_their_line(project: Path, args: str, said: str) -> None:
    write(project, "../work/y.yaml", f"arch:\n  type: Holder\n  args:\n    {args}\n")
    with pytest.raises(ConfigError) as error:
        load(["x.yaml", "y.yaml"]).check()
    assert str(error.value).startswith(f"y.yaml:4: {said}")


def test_nested_schedules(project: Path) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    made = config(
        "lr_scheduler={type: SequentialLR, args: {milestones: [2], schedulers: [{type: LinearLR, args: {start_factor: "
        "0.5, total_iters: 2}}, {type: ExponentialLR, args: {gamma: 0.1}}]}}"
    )
    made.check()
    schedule = made.build("lr_scheduler", optimizer)
    rates = []
    for _ in range(5):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.5, 0.75, 1.0, 0.1, 0.01])


def test_chained_schedules(project: Path) -> None:
    """Whose first parameter is not the optimizer."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    inner = "[{type: ConstantLR, args: {factor: 0.5}}, {type: ExponentialLR, args: {gamma: 0.1}}]"
    made = config(f"lr_scheduler={{type: ChainedScheduler, args: {{schedulers: {inner}}}}}")
    made.check()
    made.build("lr_scheduler", optimizer)
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert "argument 'T_max' is missing" in problem(
        "lr_scheduler={type: ChainedScheduler, args: {schedulers: [{type: CosineAnnealingLR}]}}"
    )


def test_transforms_in_a_loader(project: Path) -> None:
    write(
        project,
        "data_loader/more.py",
        "from data_loader.data_loaders import Letters\nclass Crop:\n    def __init__(self, size: int): self.size = size\n"
        "class Images(Letters):\n    def __init__(self, transform):\n        self.transform = transform",
    )
    made = config(
        "trainer.monitor=off",
        "data_loader={type: Images, args: {transform: [{type: Crop, args: {size: 3}}, {type: CenterCrop, args: {size: 2}}]}}",
    )
    made.check()
    crop, center = made.build("data_loader").transform
    assert crop.size == 3
    assert type(center).__module__.startswith("torchvision.transforms.v2")


def test_an_open_ended_function_takes_any_argument(project: Path) -> None:
    write(
        project, "model/open.py", "from model.model import Net\ndef small(width, **kwargs): return Net(width, **kwargs)"
    )
    made = config("arch={type: small, args: {width: 3, classes: 4}}")
    made.check()
    assert type(made.build("arch")).__name__ == "Net"


# -- what a constructor raises ----------------------------------------------------------------------------------------

RAISING = """
import json
from torch import nn
from utils.errors import DataError, Stopped

class Raising(nn.Module):
    def __init__(self, how: str):
        super().__init__()
        if how == "own":
            self.x = 1 / 0
        elif how == "sentence":
            raise ValueError("widths must not be empty")
        elif how == "key":
            {}["x"]
        elif how == "silent":
            assert how == "loud"
        elif how == "library":
            json.loads("[1")
        elif how == "data":
            raise DataError("no data there")
        elif how == "stopped":
            raise Stopped("it is over")
        elif how == "interrupted":
            raise KeyboardInterrupt
"""


def raised(how: str) -> BaseException:
    made = config(f"arch={{type: Raising, args: {{how: {how}}}}}")
    made.check()
    with pytest.raises(BaseException) as error:  # noqa: PT011
        made.build("arch")
    return error.value


@pytest.mark.parametrize(
    "how, sentence, traceback",
    [
        ("own", "ZeroDivisionError: division by zero", True),
        ("sentence", "widths must not be empty", True),
        ("key", "KeyError: 'x'", True),
        ("silent", "AssertionError", True),
        ("library", "Expecting ',' delimiter: line 1 column 3 (char 2)", False),
    ],
)
def test_what_a_constructor_raises(house: Path, how: str, sentence: str, traceback: bool) -> None:  # noqa: F811
    """Place and sentence; the traceback where the error was raised in a file of the user's."""
    write(house, "model/raising.py", RAISING)
    error = raised(how)
    assert isinstance(error, ConfigError)
    lines = str(error).splitlines()
    assert lines[0] == f"command line: arch={{type: Raising, args: {{how: {how}}}}}: Raising: {sentence}"
    assert ("Traceback" in str(error)) == traceback
    assert ("model/raising.py" in str(error)) == traceback
    assert "utils/config" not in str(error)


@pytest.mark.parametrize("how, kind", [("data", DataError), ("stopped", Stopped), ("interrupted", KeyboardInterrupt)])
def test_what_passes_through(house: Path, how: str, kind: type) -> None:  # noqa: F811
    write(house, "model/raising.py", RAISING)
    assert type(raised(how)) is kind


@pytest.mark.parametrize(
    "overrides, said",
    [
        (["optimizer={type: SGD, args: {lr: -0.1}}"], "SGD: Invalid learning rate: -0.1"),
        (
            ["optimizer={type: SGD, args: {lr: 1, nesterov: true}}"],
            "SGD: Nesterov momentum requires a momentum and zero",
        ),
    ],
)
def test_an_optimizer_that_refuses(house: Path, overrides: list[str], said: str) -> None:  # noqa: F811
    made = config(*overrides)
    made.check()
    with pytest.raises(ConfigError) as error:
        made.build("optimizer", [nn.Parameter(torch.zeros(1))])
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_the_place_of_a_part_in_a_list(house: Path) -> None:  # noqa: F811
    write(house, "trainer/callbacks/bad.py", "class Bad:\n    def __init__(self): raise OSError(2, 'No file', 'x.csv')\n"
          "    def after_step(self, trainer): ...")  # fmt: skip
    (house / "y.yaml").write_text("callbacks:\n  - EMA\n  - Bad\n")
    made = load(["x.yaml", "y.yaml"])
    with pytest.raises(ConfigError, match=r"^y.yaml:3: callbacks.1: Bad: \[Errno 2\] No file: 'x.csv'\n"):
        made.build("callbacks")


def test_a_nested_constructor(project: Path) -> None:
    made = held(
        act="{type: Softplus}",
        layers="[{type: Conv2d, args: {in_channels: 3, out_channels: 2, kernel_size: 1, groups: 2}}]",
    )
    with pytest.raises(ConfigError, match=r"^command line: arch=.*: Conv2d: in_channels must be divisible by groups$"):
        made.build("arch")


# -- what the scripts give --------------------------------------------------------------------------------------------


def test_an_argument_of_the_base_class(house: Path) -> None:  # noqa: F811
    write(
        house,
        "data_loader/more.py",
        "from data_loader.engine.base_data_loader import BaseDataLoader\nclass Closed(BaseDataLoader):\n"
        "    def __init__(self, batch_size: int): super().__init__([], batch_size)",
    )
    said = problem("trainer.monitor=off", "data_loader={type: Closed, args: {batch_size: 2, shuffle: false}}")
    assert said.endswith(
        "unknown argument 'shuffle'; Closed accepts batch_size; its base class has it: add **kwargs to __init__, and "
        "hand them on to super().__init__"
    )


def test_what_a_script_gives_must_be_accepted(house: Path) -> None:  # noqa: F811
    write(
        house,
        "trainer/more.py",
        "from trainer.trainer import Trainer\nclass Closed(Trainer):\n    def __init__(self, model, criterion, metrics,\n"
        "                 optimizer, config, device, data_loader, valid_data_loader, lr_scheduler): ...",
    )
    said = problem("trainer.type=Closed")
    assert re.search(
        r"Closed has no argument 'callbacks', 'run', which the scripts give it; add it or \*\*kwargs to its __init__, and hand it on "
        r"to super\(\).__init__$", said
    )  # fmt: skip
    write(house, "data_loader/more.py", "from data_loader.data_loaders import Letters\nclass Plain(Letters):\n"
          "    def __init__(self): ...")  # fmt: skip
    made = config("data_loader=Plain", "trainer.monitor=off")
    with pytest.raises(ConfigError, match="Plain has no argument 'training', which the scripts give it"):
        made.build("data_loader", training=False)
