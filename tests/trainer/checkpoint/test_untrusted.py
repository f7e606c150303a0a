"""Files of strangers: each file that a run leaves may be hostile, and so may a checkpoint of the 2020 template."""

import datetime
import importlib.util
import json
import os
import pathlib
import pickle
import sys
import types
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.trainer.checkpoint.harness import House, Result, at_step, config, die
from trainer.checkpoint import files as checkpoint
from trainer.checkpoint import init_from as weights

ROOT = Path(__file__).parents[3]


class Attack:
    """Makes the file `pwned` when it is unpickled without care."""

    def __reduce__(self) -> Any:
        return os.system, ("touch pwned",)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> House:
    house = House(tmp_path_factory.mktemp("begun"), config())
    house.train(patch=at_step(9, die), code=137)
    return house


@pytest.fixture
def house(begun: House, tmp_path: Path) -> House:
    return begun.copy(tmp_path / "house")


def run_test_py(house: House, path: object) -> Result:
    """`test.py -r PATH`."""
    spec = importlib.util.spec_from_file_location("test_script", ROOT / "test.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return house.command("-r", path, main=script.main)


def replace(house: House, state: Any, step: int = 8) -> Path:
    path = house.run / f"checkpoints/{checkpoint.name_of(step)}"
    torch.save(state, path)
    return path


HOSTILE: dict[str, Callable[[House], object]] = {
    "pickle": lambda house: replace(house, {"format": 1, "step": 8, "model": Attack()}),
    "plain pickle": lambda house: (house.run / "checkpoints/checkpoint-step8.pth").write_bytes(pickle.dumps(Attack())),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_checkpoint_that_would_run_code(kind: str, house: House) -> None:
    """Refused with one line, an older one is used; alone, exit 3; test.py the same."""
    HOSTILE[kind](house)
    path = "saved/t/r/checkpoints/checkpoint-step8.pth"
    named = house.command("-r", path)
    assert named.code == 3
    assert len(named.text[named.text.index("stopped: ") :].splitlines()) == 1
    result = run_test_py(house, path)
    assert (result.code, len(result.lines)) == (3, 1), result.text
    if kind == "pickle":
        why = "it holds Python objects besides tensors and plain types, and loading those could run code"
        assert named.lines[-1].startswith(f"stopped: no usable checkpoint: {path}: {why}; ")
        assert result.text.startswith(f"stopped: {path} cannot be used: {why}; ")
    result = house.train()
    assert f"warning: {path} cannot be used: " in result.text
    assert "continuing in saved/t/r from step 6" in result.lines
    assert not list(house.folder.rglob("pwned"))


def test_no_sound_checkpoint(house: House) -> None:
    """Never a silent fresh start."""
    for path in (house.run / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:-100])
    files = house.files()
    result = house.train(code=3)
    assert result.lines[-4:] == [
        "stopped: no usable checkpoint in saved/t/r/checkpoints:",
        "  checkpoint-step8.pth: it is damaged or cut off (File is not a zip file)",
        "  checkpoint-step6.pth: it is damaged or cut off (File is not a zip file)",
        "Restore one of them from a backup, or start a new run (without -r); nothing was changed here.",
    ]
    assert house.files() == files


@pytest.mark.parametrize("key, value", [("step", "8"), ("step", None), ("skipped", {}), ("logs", 3), ("config", [])])
def test_checkpoint_of_wrong_types(key: str, value: Any, house: House) -> None:
    replace(house, house.state() | {key: value})
    assert f"cannot be used: it has no usable {key}; trying an older one" in house.train().text


@pytest.mark.parametrize(
    "change, reported",
    [
        ({"arch": {"type": "os.system", "args": {}}}, "unknown name"),
        ({"name": "../../outside"}, "name"),
        ({"loss": {"type": "torch.load", "args": {}}}, "unknown name"),
    ],
)
def test_config_in_a_checkpoint(change: dict[str, Any], reported: str, house: House) -> None:
    """test.py builds from it."""
    state = house.state()
    path = replace(house, state | {"config": state["config"] | change})
    result = run_test_py(house, path)
    assert (result.code, reported in result.text, "Traceback" in result.text) == (2, True, False), result.text


BOMB = "a0: &a0 [1, 1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40))


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system ['touch pwned']",
        "name: !!python/object/apply:os.system ['touch pwned']",
        "{" * 10_000,
        '{"a":' * 10_000,
        BOMB,
        "",
        "\x00\x01",
    ],
    ids=["tag", "tag inside", "depth", "JSON depth", "aliases", "empty", "binary"],
)
def test_config_of_a_run(text: str, house: House) -> None:
    (house.run / "config.yaml").write_text(text)
    result = house.command("-r", "saved/t/r")
    assert (result.code, "Traceback" in result.text) == (2, False), result.text
    assert house.train().code == 0  # -c FILE -r RUN does not read it
    assert not list(house.folder.rglob("pwned"))


@pytest.mark.parametrize("data", [b"[" * 100_000, b"\xff\xfe\n", b'{"split": "test"', b'{"split": "test"}\n'])
def test_metrics_of_a_run(data: bytes, house: House) -> None:
    size = house.state()["logs"]["metrics.jsonl"]
    kept = house.metrics()[:size]
    (house.run / "metrics.jsonl").write_bytes(kept + data)
    house.train()
    assert house.metrics().startswith(kept)
    for line in house.metrics().splitlines():
        json.loads(line)


@pytest.mark.parametrize(
    "name", ["log.txt", ".lock", "events.out.tfevents.1", "metrics.jsonl", "checkpoints/model_best.pth"]
)
def test_binary_rubbish(name: str, house: House) -> None:
    (house.run / name).write_bytes(os.urandom(1000))
    house.train()


def test_files_are_not_followed_out_of_the_run(house: House) -> None:
    outside = house.folder / "precious"
    outside.write_text("precious")
    (house.run / "events.out.tfevents.1").symlink_to(outside)
    house.train("trainer.tensorboard=true")
    assert outside.read_text() == "precious"


# -- checkpoints of the 2020 template ---------------------------------------------------------------------------------


@pytest.fixture
def of_2020(tmp_path: Path) -> Path:
    """A run of that template, with what its BaseTrainer saves: also a ConfigParser and a NumPy number."""
    module = types.ModuleType("parse_config")

    class ConfigParser:
        pass

    ConfigParser.__module__, ConfigParser.__qualname__ = "parse_config", "ConfigParser"
    vars(module)["ConfigParser"] = ConfigParser
    sys.modules["parse_config"] = module
    parser = ConfigParser()
    vars(parser).update(
        _config=OrderedDict(name="Mnist_LeNet", trainer={"save_dir": "saved/"}),
        resume=None,
        _save_dir=pathlib.PosixPath("saved/models/Mnist_LeNet/0101_120000"),
        _log_dir=pathlib.PosixPath("saved/log/Mnist_LeNet/0101_120000"),
        log_levels={0: 30, 1: 20, 2: 10},
        made=datetime.datetime(2020, 1, 1),
    )
    from model.model import MnistModel

    model = MnistModel()
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.zeros(2, 1, 28, 28)).sum().backward()
    optimizer.step()
    folder = tmp_path / "saved/models/Mnist_LeNet/0101_120000"
    folder.mkdir(parents=True)
    state = {
        "arch": "MnistModel",
        "epoch": 3,
        "state_dict": {f"module.{key}": value for key, value in model.state_dict().items()},
        "optimizer": optimizer.state_dict(),
        "monitor_best": np.float64(0.25),
        "config": parser,
    }
    torch.save(state, folder / "checkpoint-epoch3.pth")
    (folder / "config.json").write_text("{}")
    del sys.modules["parse_config"]
    return folder


def test_weights_of_2020(of_2020: Path) -> None:
    from model.model import MnistModel

    model = MnistModel()
    model.load_state_dict(weights.read(of_2020 / "checkpoint-epoch3.pth", model.state_dict()))


def test_resume_of_2020_is_reported(of_2020: Path, house: House) -> None:
    file = of_2020 / "checkpoint-epoch3.pth"
    result = house.command("-r", file, "-c", "c.yaml")
    assert (result.code, result.lines) == (
        2,
        [
            f"error: -r {file}: this checkpoint is not in a run's folder (RUN/checkpoints/), so it cannot be "
            f"continued; start a new run from its weights with init_from={file}"
        ],
    )
    result = house.command("-r", of_2020, "-c", "c.yaml")
    assert (result.code, result.lines) == (
        2,
        [
            f"error: -r {of_2020}: a run of the 2020 template cannot be continued; start a new run from its weights "
            f"with -c FILE init_from={file}"
        ],
    )


def test_init_from_2020(of_2020: Path, house: House) -> None:
    file = of_2020 / "checkpoint-epoch3.pth"
    result = house.command("-c", "c.yaml", f"init_from={file}")
    assert result.code == 2
    assert f"error: init_from {file}: none of its 8 tensors fits the model's" in result.text


@pytest.mark.parametrize("where", ["config", "monitor_best", "epoch"])
def test_attack_in_a_2020_checkpoint(where: str, of_2020: Path, house: House) -> None:
    file = of_2020 / "checkpoint-epoch3.pth"
    torch.save({"state_dict": {"w": torch.zeros(1)}, where: Attack()}, file)
    result = house.command("-c", "c.yaml", f"init_from={file}")
    assert (result.code, result.lines[-1]) == (
        2,
        f"error: {file} cannot be used: it holds Python objects, and loading those could run code. If you trust it, "
        "convert it once where it was made: torch.save(model.state_dict(), 'weights.pth')",
    )
    assert not list(house.folder.rglob("pwned"))
