"""`init_from`: a new run starts from weights of another; what does not fit is reported."""

import argparse
import gzip
import io
import os
import pickle
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.tiny import tiny
from trainer.checkpoint import init_from
from utils.errors import UsageError

__all__ = ["tiny"]


def test_init_from_takes_the_weights_and_nothing_else(tiny):
    first = tiny.train(run="first")
    path = tiny.folder / "first/checkpoints/checkpoint-step12.pth"
    second = tiny.build(f"init_from={path}", run="second")
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True))
    assert second.step == 0
    tiny.train(f"init_from={path}", run="second")
    assert f"init_from {path}: 4 of the model's 4 tensors loaded\n" in tiny.log("second")
    assert tiny.points("valid", "second")[0]["loss"] < tiny.points("valid", "first")[-1]["loss"]


def test_init_from_reports_what_did_not_fit(tiny):
    tiny.train("trainer.epochs=1", run="first")
    state = tiny.load("checkpoint-step6.pth", "first")["model"]
    state["module.extra.weight"] = torch.zeros(1)
    del state["layers.0.bias"]
    torch.save(state, tiny.folder / "weights.pth")
    tiny.train("arch.args.num_classes=12", f"init_from={tiny.folder / 'weights.pth'}", "trainer.epochs=1")
    assert f"init_from {tiny.folder}/weights.pth: 1 of the model's 4 tensors loaded\n" in tiny.log()
    for line in (
        "1 missing there, left as initialized: layers.0.bias\n",
        "1 not in the model, left out: module.extra.weight\n",
        "2 of another shape, left as initialized: layers.2.weight [10, 16] -> [12, 16], layers.2.bias [10] -> [12]\n",
    ):
        assert line in tiny.log()


def test_init_from_another_model_is_refused(tiny):
    torch.save({"conv.weight": torch.zeros(1)}, tiny.folder / "weights.pth")
    with pytest.raises(
        UsageError, match=r"none of its 1 tensors fits the model's 4 by name and shape; it has conv.weight"
    ):
        tiny.build(f"init_from={tiny.folder / 'weights.pth'}")


def test_init_from_a_missing_file_is_refused(tiny):
    with pytest.raises(
        UsageError,
        match=r"init_from nowhere.pth: no such file; give a run's folder or a file of weights, such as saved/",
    ):
        tiny.build("init_from=nowhere.pth")


# -- files by others --------------------------------------------------------------------------------------------------


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))


def prefixed(prefix: str, state: dict[str, Any]) -> dict[str, Any]:
    return {f"{prefix}{key}": value for key, value in state.items()}


FORMS: dict[str, Callable[[dict], Any]] = {
    "a state_dict": dict,
    "net": lambda state: {"net": state, "epoch": 3, "acc": 0.5},
    "model_state_dict": lambda state: {"model_state_dict": state, "optimizer_state_dict": {"state": {}}, "loss": 0.1},
    "state_dict beside a tensor": lambda state: {"best": torch.tensor(0.5), "state_dict": state},
    "several wraps": lambda state: {"checkpoint": {"ema": {"net": state}}},
    "a word of one's own": lambda state: {"weights_of_mine": state},
    "module.": lambda state: prefixed("module.", state),
    "backbone.": lambda state: {"state_dict": prefixed("backbone.", state)},
    "module. of a compiled model": lambda state: prefixed("module._orig_mod.", state),
    "of Lightning": lambda state: {"state_dict": prefixed("model.", state) | {"loss.weight": torch.ones(3)}},
    "with arguments and NumPy's numbers": lambda state: {
        "model": state,
        "args": argparse.Namespace(lr=0.1),
        "best": np.float64(0.5),
        "history": np.arange(3.0),
    },
    "with an extra state": lambda state: {**state, "_extra_state": {"seen": 3}},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("zipped", [True, False])
def test_forms(form: str, zipped: bool, tmp_path) -> None:
    source, target = net(), net()
    torch.save(FORMS[form](source.state_dict()), tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    lines = init_from.load(target, tmp_path / "w.pth")
    assert all(
        torch.equal(a, b) for a, b in zip(source.state_dict().values(), target.state_dict().values(), strict=True)
    )
    assert f"{len(source.state_dict())} of the model's {len(source.state_dict())} tensors loaded" in lines[0]
    assert lines[0].endswith(", without the prefix backbone.") == (form == "backbone.")


class Wrapping(nn.Module):
    """Its own parts are called as wrappers call theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3))
        self.module = nn.Linear(3, 1)
        self._orig_mod = nn.Linear(3, 1, bias=False)


def test_a_submodule_called_module_keeps_its_weights(tmp_path) -> None:
    source, target = Wrapping(), Wrapping()
    torch.save(source.state_dict(), tmp_path / "w.pth")
    assert len(init_from.load(target, tmp_path / "w.pth")) == 1
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))


def test_chance_does_not_count(tmp_path) -> None:
    """A prefix is dropped only where most of its weights fit."""
    torch.save({f"x.{i}.weight": torch.zeros(3, 2) for i in range(5)}, tmp_path / "w.pth")
    with pytest.raises(UsageError, match="none of its 5 tensors fits"):
        init_from.load(net(), tmp_path / "w.pth")


def saved(data: Any) -> bytes:
    file = io.BytesIO()
    torch.save(data, file)
    return file.getvalue()


def zipped() -> bytes:
    file = io.BytesIO()
    np.savez(file, w=np.ones(3))
    return file.getvalue()


@pytest.mark.parametrize(
    "data, said",
    [
        (b"", "is not a torch.save file: it is empty"),
        (b"loss 0.3\n", "is not a torch.save file: it begins with 'loss 0.3"),
        (b"<!DOCTYPE html>\n<html>", "is not a torch.save file: it begins with '<!DOCTYPE html>"),
        (pickle.dumps({"w": [1.0]}), "is not a torch.save file: written by pickle alone"),
        (saved({"w": torch.ones(9)})[:-40], "is not a torch.save file: it is incomplete"),
        (gzip.compress(saved({})), "is not a torch.save file: it is compressed by gzip; unpack it"),
        (zipped(), "is not a torch.save file: a zip file of another kind"),
    ],
)
def test_another_kind_of_file(data: bytes, said: str, tmp_path) -> None:
    (tmp_path / "w.pth").write_bytes(data)
    with pytest.raises(UsageError) as error:
        init_from.load(net(), tmp_path / "w.pth")
    assert said in str(error.value)
    assert "torch.save(model.state_dict(), 'weights.pth')" in str(error.value)


def test_a_whole_model_is_refused(tmp_path) -> None:
    torch.save({"model": net()}, tmp_path / "w.pth")
    with pytest.raises(UsageError, match="it holds Python objects, and loading those could run code"):
        init_from.load(net(), tmp_path / "w.pth")


@pytest.mark.parametrize("function", [exec, eval, subprocess.Popen, os.system, shutil.rmtree])
def test_what_no_weights_need_is_refused(function: Any, tmp_path) -> None:
    """Though nothing of it would run: a stand-in takes its place for what has no meaning here."""

    class Harmful:
        def __reduce__(self) -> Any:
            return function, ("no such thing",)

    torch.save({"model": net().state_dict(), "more": Harmful()}, tmp_path / "w.pth")
    with pytest.raises(UsageError, match="it holds Python objects, and loading those could run code"):
        init_from.load(net(), tmp_path / "w.pth")


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_what_is_in_a_file_counts_not_its_name(name: str, tmp_path) -> None:
    safetensors = pytest.importorskip("safetensors.torch", reason="needs safetensors: make extra NAME=timm")
    source, target = net(), net()
    (torch.save if name == "w.safetensors" else safetensors.save_file)(source.state_dict(), tmp_path / name)
    init_from.load(target, tmp_path / name)
    assert torch.equal(source.state_dict()["0.weight"], target.state_dict()["0.weight"])


def test_a_folder(tiny) -> None:
    """Of a run: its best checkpoint, or else its newest. Any other is refused."""
    first = tiny.train("trainer.epochs=1", run="first")
    second = tiny.build(f"init_from={tiny.folder / 'first'}", "seed=2", run="second")
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True))
    torch.save({}, tiny.folder / "w.pth")
    with pytest.raises(UsageError) as error:
        tiny.build(f"init_from={tiny.folder}")
    expected = f"init_from {tiny.folder}: this is a folder; give a run's folder or a file of weights, such as "
    assert str(error.value) == f"{expected}{tiny.folder / 'w.pth'}"


# -- models that differ -----------------------------------------------------------------------------------------------


def test_weights_of_a_part_of_the_model(tmp_path) -> None:
    source, target = net(), nn.ModuleDict({"backbone": net()[:2], "head": nn.Linear(3, 4)})
    torch.save(prefixed("module.", source.state_dict()), tmp_path / "w.pth")
    lines = init_from.load(target, tmp_path / "w.pth")
    assert torch.equal(source.state_dict()["0.weight"], target.state_dict()["backbone.0.weight"])
    assert lines[0].endswith("7 of the model's 9 tensors loaded, without the prefix module., into backbone.")
    assert lines[1:] == [
        "2 missing there, left as initialized: head.weight, head.bias",
        "2 not in the model, left out: backbone.2.weight, backbone.2.bias",
    ]


class Patches(nn.Module):
    def __init__(self, channels: int, tokens: int, classes: int) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.randn(1, tokens, 8))
        self.proj = nn.Conv2d(channels, 8, 2, 2)
        self.head = nn.Linear(8, classes)


@pytest.mark.parametrize("channels", [1, 4])
def test_other_images_resize_the_weights_as_timm_does(channels: int, tmp_path) -> None:
    layers = pytest.importorskip("timm.layers", reason="needs timm: make extra NAME=timm")
    models = pytest.importorskip("timm.models", reason="needs timm: make extra NAME=timm")
    source, target = Patches(3, 17, 10), Patches(channels, 50, 2)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    lines = init_from.load(target, tmp_path / "w.pth")
    assert torch.equal(target.proj.weight, models.adapt_input_conv(channels, source.proj.weight))
    assert torch.equal(target.pos_embed, layers.resample_abs_pos_embed(source.pos_embed, [7, 7], [4, 4]))
    assert not target.head.weight.any()  # a fresh head
    assert lines[2] == (
        "2 resized, for images of another size or other channels: pos_embed [1, 17, 8] -> [1, 50, 8], proj.weight "
        f"[8, 3, 2, 2] -> [8, {channels}, 2, 2]"
    )
