"""Configs: what YAML text means, how files and KEY=VALUE merge, how arguments are bound, the round trip."""

import functools
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.house import GOOD, house  # noqa: F401
from utils import cli
from utils.config import Config, ConfigError, load
from utils.config.files import Dumper, nearest, parse
from utils.errors import UsageError


def value_of(text: str) -> Any:
    return parse(text, lambda line: f"line {line}")[0]


def text(*lines: str) -> str:
    return "\n".join(lines) + "\n"


# -- what the text means ----------------------------------------------------------------------------------------------


def test_merge_keys() -> None:
    """`<<` as YAML has it: own keys win, then the first of several; a duplicate of one's own is still an error."""
    read = value_of("a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc: {z: 3, <<: [*a, *b]}\nd: {'<<': 1}")
    assert read["c"] == {"x": 1, "y": 1, "z": 3}
    assert read["d"] == {"<<": 1}
    assert value_of(yaml.dump(read, Dumper=Dumper)) == read
    for wrong, said in (("{<<: 3}", r"expected \*ANCHOR of a mapping"), ("{<<: *a, x: 1, x: 2}", "duplicate key")):
        with pytest.raises(ConfigError, match=said):
            value_of(f"a: &a {{x: 1}}\nb: {wrong}")


def test_a_file_in_utf_16(house: Path) -> None:  # noqa: F811
    """As `--print-config > x.yaml` writes it in a PowerShell."""
    (house / "x.yaml").write_text(GOOD, encoding="utf-16")
    assert load(["x.yaml"]).run.name == "demo"


@pytest.mark.parametrize(
    "written, value",
    [
        ("1e-3", 0.001),
        ("1E5", 100000.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("-1.5e+3", -1500.0),
        ("+3", 3),
        ("-0", 0),
        (".inf", float("inf")),
        ("-.Inf", -float("inf")),
        *((word, word) for word in ("on", "off", "yes", "no", "On", "NO", "y", "n")),
        *((word, word) for word in ("012", "1:30", "1_000", "0x1f", "0o7", "1e", "e5", ".", "2024-01-01", "1.2.3")),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("'1e-3'", "1e-3"),
        ('"true"', "true"),
        ("!!str 5", "5"),
        ("[1, a, 2.0]", [1, "a", 2.0]),
        ("{lr: 1e-3, betas: [0.9, .999]}", {"lr": 0.001, "betas": [0.9, 0.999]}),
        (r'"\ud83d\ude00"', "\N{GRINNING FACE}"),
    ],
)
def test_scalars(written: str, value: object) -> None:
    read = value_of(f"key: {written}")["key"]
    assert (read, type(read)) == (value, type(value))


def test_json_as_yaml(house: Path) -> None:  # noqa: F811
    """JSON keeps its meaning (tabs, escapes, no spaces), and errors have its line numbers."""
    data = load(["x.yaml"]).to_dict()
    data["name"] = 'tab\\ quote" \N{GRINNING FACE} é'.replace("\\", "")
    (house / "x.json").write_text(json.dumps(data, indent="\t", separators=(",", ":")))
    assert load(["x.json"]).to_dict() == data
    (house / "y.json").write_text(json.dumps({**data, "n_gpu": "x"}, indent=2))
    with pytest.raises(ConfigError, match=r"^y\.json:3: n_gpu: "):
        load(["y.json"])


def test_whole_numbers_may_be_written_as_floats(house: Path) -> None:  # noqa: F811
    assert load(["x.yaml"], ["trainer.max_steps=1e5"]).run.trainer.max_steps == 100_000
    for given, seconds in {"90m": 5400, "8.5h": 30_600, "30 s": 30, "12": 12}.items():
        assert load(["x.yaml"], [f"trainer.max_time={given}"]).run.trainer.max_time == seconds


def test_broken_text_is_a_config_error(house: Path) -> None:  # noqa: F811
    """Any file is either read or raises ConfigError, never another exception."""
    draw = random.Random(1)
    reported: list[str] = []
    for _ in range(600):
        letters = list(GOOD)
        for _ in range(draw.randint(1, 4)):
            letters[draw.randrange(len(letters))] = draw.choice("{}[]:,&*!|>'\"%@`#-?\t\n 0ae.<~=\\\0é")
        (house / "x.yaml").write_text("".join(letters))
        try:
            load(["x.yaml"])
        except ConfigError as e:
            reported += e.problems
    assert len(reported) > 500
    assert all(problem.startswith("x.yaml") for problem in reported)


# -- files and KEY=VALUE ----------------------------------------------------------------------------------------------


def write(folder: Path, **files: str) -> None:
    for name, content in files.items():
        (folder / f"{name}.yaml").write_text(content)


def test_later_files_override(house: Path) -> None:  # noqa: F811
    write(
        house,
        a="trainer: {epochs: 5}\ndata_loader: {args: {batch_size: 8}}\n",
        b="trainer: {epochs: 7}\nmetrics: [top_k]\n",
    )
    run = load(["x.yaml", "a.yaml", "b.yaml"]).run
    assert (run.trainer.epochs, run.trainer.monitor) == (7, "min val_loss")
    assert run.data_loader.args == {"data_dir": "data/", "batch_size": 8, "validation_split": 0.1}
    assert [part.type for part in run.metrics] == ["top_k"]  # a list is replaced


@pytest.mark.parametrize(
    "later, optimizer",
    [
        ("optimizer: {args: {betas: [0, 0]}}", {"type": "Lion", "args": {"lr": 0.001, "betas": [0, 0]}}),
        ("optimizer: {type: Lion, args: {lr: 1}}", {"type": "Lion", "args": {"lr": 1}}),
        ("optimizer: {type: SGD}", {"type": "SGD", "args": {"lr": 0.001}}),
        ("optimizer: {type: SGD, args: {momentum: 0.9}}", {"type": "SGD", "args": {"momentum": 0.9}}),
        ("optimizer: SGD", {"type": "SGD", "args": {}}),
    ],
)
def test_merging_a_part(house: Path, later: str, optimizer: dict) -> None:  # noqa: F811
    """`args` merge, except under another `type` that brings its own."""
    write(house, y=later)
    assert load(["x.yaml", "y.yaml"]).to_dict()["optimizer"] == optimizer


SEVERAL = "optimizer: {generator: {type: Lion, args: {lr: 1}}, critic: Adam}"


@pytest.mark.parametrize(
    "earlier, later, optimizer",
    [
        ("", SEVERAL, {"generator": ("Lion", {"lr": 1}), "critic": ("Adam", {})}),
        ("optimizer: Adam", SEVERAL, {"generator": ("Lion", {"lr": 1}), "critic": ("Adam", {})}),
        (SEVERAL, "optimizer: {type: SGD}", ("SGD", {})),
        (
            SEVERAL,
            "optimizer: {critic: {args: {lr: 2}}}",
            {"generator": ("Lion", {"lr": 1}), "critic": ("Adam", {"lr": 2})},
        ),
        (SEVERAL, "optimizer: {generator: SGD}", {"generator": ("SGD", {}), "critic": ("Adam", {})}),
    ],
)
def test_one_part_and_several_replace_each_other(
    house: Path,  # noqa: F811
    earlier: str,
    later: str,
    optimizer: Any,
) -> None:
    """A bare name is a part among several too."""
    write(house, y=f"base: x.yaml\n{earlier}", z=f"base: y.yaml\n{later}")
    several = load(["z.yaml"]).run.optimizer
    if isinstance(several, dict):
        assert {name: (part.type, part.args) for name, part in several.items()} == optimizer
    else:
        assert (several.type, several.args) == optimizer


def test_args_for_a_bare_name(house: Path) -> None:  # noqa: F811
    write(house, y="loss: {args: {smoothing: 0.1}}")
    assert load(["x.yaml", "y.yaml"]).run.loss.args == {"smoothing": 0.1}
    run = load(["x.yaml"], ["loss.args.smoothing=0.2", "metrics.0.type=top_k", "metrics.0.args.k=5"]).run
    assert run.loss.model_dump() == {"type": "nll", "args": {"smoothing": 0.2}}
    assert run.metrics[0].model_dump() == {"type": "top_k", "args": {"k": 5}}


def test_names_of_metrics(house: Path) -> None:  # noqa: F811
    """Two of one kind, by `name`; `monitor` uses it; a config without names is saved without."""
    keys = ["metrics=[{type: top_k, name: top1, args: {k: 1}}, top_k]", "trainer.monitor=max val_top1"]
    config = load(["x.yaml"], keys)
    config.check()
    assert [part.label for part in config.run.metrics] == ["top1", "top_k"]
    assert [part.get("name") for part in load([config.to_dict()]).to_dict()["metrics"]] == ["top1", None]
    load(["x.yaml"], [keys[0], "trainer.monitor=max valid/top1_3"]).check()  # an element: known when it is computed


def test_paths(house: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setenv("HOME", "/home/me")
    run = load(["x.yaml"], ["trainer.save_dir=~/runs", "init_from=$HOME/w.pth"]).run
    assert (run.trainer.save_dir, run.init_from) == ("/home/me/runs", "/home/me/w.pth")
    assert load(["x.yaml"], ["trainer.save_dir=${HOME}/runs"]).run.trainer.save_dir == "/home/me/runs"


def test_base(house: Path) -> None:  # noqa: F811
    """Files under `base` come first, in order, relative to the file that names them; they can have bases too."""
    (house / "sub/deep").mkdir(parents=True)
    write(house / "sub/deep", c="base: [../../x.yaml, ../d.yaml]\nseed: 3\n")
    write(house / "sub", d="trainer: {epochs: 9}\nseed: 4\n", e="base: deep/c.yaml\nname: e\n")
    config = load(["sub/e.yaml"])
    assert (config.run.name, config.run.seed, config.run.trainer.epochs) == ("e", 3, 9)
    assert "base" not in config.to_dict()


def test_the_same_base_twice(house: Path) -> None:  # noqa: F811
    write(house, a="base: x.yaml\nseed: 3\n", b="base: [a.yaml, x.yaml]\n")
    assert load(["b.yaml"]).run.seed == 3


def test_set(house: Path) -> None:  # noqa: F811
    keys = ["trainer.epochs=3", "optimizer.args={lr: 1}", "seed=2", "seed=5", "init_from=a=b.pth", "metrics=[top_k]"]
    run = load(["x.yaml"], keys).run
    assert (run.trainer.epochs, run.seed, run.init_from) == (3, 5, "a=b.pth")
    assert load(["x.yaml"], ["trainer={epochs: 1}"]).run.trainer.monitor == "off"  # set exactly, not merged
    assert load(["x.yaml"], ["arch=WideNet"]).run.arch.model_dump() == {"type": "WideNet", "args": {}}


def test_keys_of_your_own(house: Path) -> None:  # noqa: F811
    write(house, y="custom: {note: hi, a: {b: [1, {c: null}]}}")
    config = load(["x.yaml", "y.yaml"], ["custom.a.d=3", "custom.new.deep=true"])
    assert config.custom == {"note": "hi", "a": {"b": [1, {"c": None}], "d": 3}, "new": {"deep": True}}
    assert load([config.to_dict()]).custom == config.custom
    write(house, empty="custom:")
    assert load(["x.yaml", "empty.yaml"]).custom == {}


def test_old_spellings(house: Path) -> None:  # noqa: F811
    """`early_stop: 0` of the 2020 template means off, without a monitor too; `compile: model` means true."""
    assert load(["x.yaml"], ["trainer.early_stop=0", "trainer.monitor=off"]).run.trainer.early_stop is None
    assert load(["x.yaml"], ["trainer.early_stop=3"]).run.trainer.early_stop == 3
    assert load(["x.yaml"], ["trainer.compile=model"]).run.trainer.compile is True


def test_a_checkpoints_config(house: Path) -> None:  # noqa: F811
    """A mapping stands for a file."""
    data = load(["x.yaml"]).to_dict()
    assert load([data], ["seed=9"]).to_dict() == {**data, "seed": 9}
    with pytest.raises(ConfigError, match=r"the config: trainer\.epohs: unknown key 'epohs'"):
        load([{**data, "trainer": {"epohs": 3, "epochs": 3}}])


AWKWARD = [
    "1e-3",
    "on",
    "012",
    "a: b",
    "",
    " ",
    "null",
    "~",
    "1:30",
    "- x",
    "#",
    "'",
    "é\n\t\N{GRINNING FACE}",
    "<<",
    "=",
    "True",
]


def test_round_trip(house: Path) -> None:  # noqa: F811
    """The output of --print-config gives the same config again, also with awkward text."""
    config = load(
        ["x.yaml"], [f"arch.args={json.dumps({'words': AWKWARD, 'floats': [1e-30, 1e16, 3.0], 'none': None})}"]
    )
    (house / "again.yaml").write_text(config.to_yaml())
    again = load(["again.yaml"])
    assert again.to_dict() == config.to_dict()
    assert again.run.arch.args["words"] == AWKWARD
    assert again.to_yaml() == config.to_yaml()


def test_plain_types(house: Path, tmp_path: Path) -> None:  # noqa: F811
    """A checkpoint can hold to_dict()."""
    data = load(["x.yaml"]).to_dict()
    torch.save(data, tmp_path / "data.pth")
    assert torch.load(tmp_path / "data.pth", weights_only=True) == data


# -- parts ------------------------------------------------------------------------------------------------------------


def checked(*overrides: str) -> Config:
    config = load(["x.yaml"], overrides)
    config.check()
    return config


def test_build(house: Path) -> None:  # noqa: F811
    config = checked("arch.args.widths=[4, 4]", "metrics=[accuracy, {type: top_k, args: {k: 5}}]", "callbacks=[EMA]")
    assert type(config.build("arch")).__name__ == "Net"
    assert config.build("loss").__name__ == "nll"
    accuracy, top_k = config.build("metrics")
    assert accuracy.__name__ == "accuracy"
    assert isinstance(top_k, functools.partial)
    assert top_k.keywords == {"k": 5}
    assert [type(callback).__name__ for callback in config.build("callbacks")] == ["EMA"]
    assert config.build("lr_scheduler") is None
    optimizer = config.build("optimizer", [torch.nn.Parameter(torch.zeros(1))])
    assert optimizer.param_groups[0]["lr"] == 0.001


def test_values_are_as_annotated(house: Path) -> None:  # noqa: F811
    """A list becomes the tuple of the signature; null is valid if it is the default."""
    from utils.config import names

    net = checked().resolve("arch", load(["x.yaml"]).run.arch)
    bound = names.bound("arch", net, {"width": 1e2, "widths": [4, 4]}, print)
    assert (bound.values, bound.problems) == ({"width": 100, "widths": (4, 4)}, [])
    wide = names.find("arch", "WideNet")
    assert names.bound("arch", wide, {"factor": None, "act": None, "classes": 3}, print).problems == []


def test_kwargs_are_followed(house: Path) -> None:  # noqa: F811
    """`**kwargs` of an __init__ are those of the base class, without those that it gives itself."""
    from utils.config import names

    def accepted(section: str, name: str) -> list[str]:
        return list(names.accepted(section, names.find(section, name)).parameters)

    assert accepted("arch", "WideNet") == ["factor", "act", "classes", "widths"]
    assert accepted("data_loader", "Letters") == ["data_dir", "training", "batch_size", "shuffle", "validation_split"]
    assert accepted("trainer", "GANTrainer") == ["latent"]


def test_library_names(house: Path) -> None:  # noqa: F811
    keys = ["optimizer={type: SGD, args: {lr: 0.1, momentum: 0.9}}", "loss=CrossEntropyLoss"]
    checked(*keys, "arch={type: resnet18, args: {num_classes: 10, weights: null}}", "lr_scheduler=CosineAnnealingLR")
    checked(*keys, "lr_scheduler={type: OneCycleLR, args: {max_lr: 0.1}}")
    checked("lr_scheduler=Warmup")  # total_steps is filled in by train.py


@pytest.mark.parametrize(
    "name", ["os", "sys", "system", "load", "os.system", "nn", "torch", "__builtins__", "Module", "_Net", "Linear"]
)
@pytest.mark.parametrize("section", ["arch", "optimizer", "loss", "metrics", "lr_scheduler", "data_loader", "trainer"])
def test_only_parts_can_be_named(house: Path, section: str, name: str) -> None:  # noqa: F811
    from utils.config import names

    with pytest.raises(LookupError):
        names.find(section, name)


def test_several_optimizers(house: Path) -> None:  # noqa: F811
    """They are named like submodules; another name is an error."""
    (house.parent / "house/model/model.py").write_text(
        text(
            "from torch import nn",
            "class GAN(nn.Module):",
            "    def __init__(self):",
            "        super().__init__()",
            "        self.generator, self.critic = nn.Linear(2, 2), nn.Linear(2, 2)",
        )
    )
    lion = "{type: Lion, args: {lr: 1}}"
    before = torch.get_rng_state()
    config = checked("arch=GAN", f"optimizer={{generator: {lion}, critic: {lion}}}")
    assert torch.equal(before, torch.get_rng_state())
    assert isinstance(config.run.optimizer, dict)
    part = config.run.optimizer["critic"]
    assert config.build_part("optimizer", part, [torch.nn.Parameter(torch.zeros(1))]).param_groups[0]["lr"] == 1
    with pytest.raises(
        ConfigError, match=r"optimizer\.critc: no submodule 'critc' \(did you mean 'critic'\?\); GAN has"
    ):
        checked("arch=GAN", f"optimizer={{generator: {lion}, critc: {lion}}}")


def test_test_py_checks_only_what_it_builds(house: Path) -> None:  # noqa: F811
    load(["x.yaml"], ["optimizer=Nothing", "trainer.type=Nobody"]).check(train=False)
    with pytest.raises(ConfigError):
        load(["x.yaml"], ["loss=Nothing"]).check(train=False)


@pytest.mark.parametrize("monitor", ["min val_loss", "max valid/accuracy", "min loss", "min train/loss", "off"])
def test_monitor(house: Path, monitor: str) -> None:  # noqa: F811
    checked(f"trainer.monitor={monitor}")


def test_an_error_in_the_projects_code_is_not_hidden(house: Path) -> None:  # noqa: F811
    (house.parent / "house/model/model.py").write_text("import nothing_of_that_name\nclass Net: ...\n")
    with pytest.raises(ModuleNotFoundError, match="nothing_of_that_name"):
        checked()


def test_nearest() -> None:
    assert nearest("epohs", ["epochs", "max_steps"]) == "epochs"
    assert nearest("mnistmodel", ["MnistModel", "GAN"]) == "MnistModel"
    assert nearest("rl", ["lr", "eps"]) == "lr"
    assert nearest("visualize", ["epochs", "max_steps"]) is None


# -- the command line -------------------------------------------------------------------------------------------------

OPTIONS = {"--lr": "optimizer.args.lr", "--bs": "data_loader.args.batch_size"}


def arguments(line: str) -> cli.Arguments:
    return cli.parse("", OPTIONS, line.split())


def test_command_line(house: Path) -> None:  # noqa: F811
    given = arguments("seed=2 -c x.yaml y.yaml trainer.epochs=3 --lr 1e-3 -r auto -d 0,1 --run-id a n_gpu=0 --bs 4")
    assert given.config_files == ["x.yaml", "y.yaml"]
    assert sorted(given.overrides) == [
        "data_loader.args.batch_size=4", "n_gpu=0", "optimizer.args.lr=1e-3", "seed=2", "trainer.epochs=3",
    ]  # fmt: skip
    assert (given.resume, given.devices, given.run_id, given.check, given.print_config) == (
        "auto",
        "0,1",
        "a",
        False,
        False,
    )
    assert arguments("-c x.yaml --check --print-config -r R --replay 7").replay == 7
    (house / "a=b.yaml").touch()
    assert arguments("-c a=b.yaml a=c").config_files == ["a=b.yaml"]
    # as the 2020 template spells them
    given = arguments("--config x.yaml --resume auto --device 1")
    assert (given.config_files, given.resume, given.devices) == (["x.yaml"], "auto", "1")


@pytest.mark.parametrize(
    "line, said",
    [
        ("", "no config given"),
        ("-r auto", "no config given"),
        ("x.yaml", "'x.yaml' is not KEY=VALUE, for example trainer.epochs=3; to use a config file, write -c FILE"),
        ("-c x.yaml --epochs 3", "unrecognized arguments: --epochs"),
        ("-c", "expected at least one argument"),
        ("-c x.yaml --replay x", "invalid int value"),
    ],
)
def test_wrong_command_line(line: str, said: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        arguments(line)
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


def test_help(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        arguments("--help")
    assert stop.value.code == 0
    assert "short for optimizer.args.lr=X" in capsys.readouterr().out


@pytest.mark.parametrize(
    "message, located",
    [
        ("data_loader: batch_size is 0; give 1", "x.yaml:9: data_loader.args.batch_size: batch_size is 0; give 1"),
        ("data_loader: no files", "x.yaml:5: data_loader: no files"),
        ("trainer.accumulate: too many", "x.yaml:16: trainer.accumulate: too many"),
        ("metrics.0: no", "x.yaml:15: metrics.0: no"),
        ("-r saved/x: no such run", "-r saved/x: no such run"),
    ],
)
def test_an_error_that_begins_with_a_key_gets_its_line(house: Path, message: str, located: str) -> None:  # noqa: F811
    config = load(["x.yaml"])
    with pytest.raises(UsageError) as error, config.located():
        raise UsageError(message)
    assert str(error.value) == located
    assert config.tree.located("no such file", ("arch",)) == "x.yaml:2: arch: no such file"
