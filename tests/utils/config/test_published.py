"""Models of torchvision and timm with the weights that these libraries publish; nothing is downloaded here."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import tiny
from trainer.checkpoint.load import load_model
from utils import config as configs
from utils.config import ConfigError, names, published
from utils.errors import UsageError

__all__ = ["tiny"]
DIGITS = "data_loader={type: DigitsDataLoader, args: {batch_size: 28, validation_split: 100}}"
BASE: dict[str, Any] = {
    "name": "a", "n_gpu": 0, "data_loader": "DigitsDataLoader", "loss": "cross_entropy", "optimizer": "SGD",
    "trainer": {"epochs": 1},
}  # fmt: skip


def checked(arch: Any) -> Any:
    config = configs.load([BASE | {"arch": arch}])
    config.check()
    config.facts = {"num_classes": 7}
    return config


def problem(arch: Any) -> str:
    with pytest.raises(ConfigError) as error:
        checked(arch)
    return str(error.value)


# -- torchvision ------------------------------------------------------------------------------------------------------


def test_a_model_is_built_without_its_weights_and_with_the_classes_of_the_data() -> None:
    config = checked({"type": "squeezenet1_1", "args": {"weights": "DEFAULT"}})
    net = config.build("arch")  # would download them
    assert net.classifier[1].out_channels == 7
    (built, make), *more = config.published
    assert built is net
    assert not more
    assert make.keywords["weights"].name == "IMAGENET1K_V1"
    assert "num_classes" not in make.keywords
    assert checked("squeezenet1_1").build("arch").classifier[1].out_channels == 7


def test_a_backbone_whose_weights_are_the_default() -> None:
    fcn = names.find("arch", "fcn_resnet50")
    plain, make = published.without_weights(fcn, {"num_classes": 3})
    assert plain == {"num_classes": 3, "weights": None, "weights_backbone": None}
    assert make is not None
    assert make.keywords["weights_backbone"].name == "IMAGENET1K_V1"
    assert published.without_weights(fcn, {"weights_backbone": None}) == (
        {"weights": None, "weights_backbone": None},
        None,
    )


def test_googlenet_has_no_auxiliary_heads_with_its_weights() -> None:
    """As torchvision builds it."""
    googlenet = names.find("arch", "googlenet")
    asked = {"weights": "DEFAULT", "init_weights": False}
    plain, make = published.without_weights(googlenet, asked)
    assert plain == {**asked, "weights": None, "transform_input": True, "aux_logits": False}
    assert make is not None
    assert make.keywords == asked
    assert published.without_weights(googlenet, {**asked, "aux_logits": True})[0]["aux_logits"]


def test_your_own_model_is_left_alone() -> None:
    def mine(weights: str) -> None: ...

    assert published.without_weights(mine, {"weights": "x"}) == ({"weights": "x"}, None)


def test_unknown_weights_are_reported() -> None:
    text = problem({"type": "squeezenet1_1", "args": {"weights": "IMAGENET"}})
    assert 'arch.args.weights: got "IMAGENET", expected IMAGENET1K_V1' in text


def download(monkeypatch: pytest.MonkeyPatch, name: str, found: bool = True) -> list[torch.nn.Module]:
    """Let a builder of torchvision find weights: those of a model that it makes. Returns the models."""
    import torchvision.models as library

    original, made = library.get_model_builder(name), list[torch.nn.Module]()

    def get_state_dict(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not found:
            raise OSError("no network")
        made.append(original())
        return made[-1].state_dict()

    monkeypatch.setattr(library.WeightsEnum if hasattr(library, "WeightsEnum") else library._api.WeightsEnum,
                        "get_state_dict", get_state_dict)  # fmt: skip
    return made


ARCH = "arch={type: mobilenet_v3_small, args: {weights: DEFAULT}}"
SMALL = ["data_loader.args.batch_size=8", "trainer.limit_batches=1", "trainer.epochs=1", "metrics=[]"]


class ThreeChannels(torch.nn.Module):
    """Digits for a net that wants colors."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x.expand(-1, 3, -1, -1))


def test_end_to_end(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are read when the run is new, and never again; nested in a model of one's own too."""
    import model.model

    monkeypatch.setattr(model.model, "ThreeChannels", ThreeChannels, raising=False)
    arch = (
        "arch={type: ThreeChannels, args: {net: {type: mobilenet_v3_small, args: {weights: DEFAULT, num_classes: 10}}}}"
    )
    made = download(monkeypatch, "mobilenet_v3_small")
    new = tiny.build(arch, *SMALL)
    weights = new.model.net.state_dict()
    (source,) = made
    same = [name for name, value in source.state_dict().items() if value.equal(weights[name])]
    assert set(weights) - set(same) == {"classifier.3.weight", "classifier.3.bias"}
    assert not weights["classifier.3.weight"].any()  # a fresh head
    tiny.train(arch, *SMALL)
    line = "classifier.3 is a fresh head, which starts from zero: classifier.3.weight [1000, 1024] -> [10, 1024]"
    assert line in tiny.log()
    download(monkeypatch, "mobilenet_v3_small", found=False)
    tiny.train(arch, *SMALL, "trainer.epochs=2")  # continues
    assert tiny.checkpoints()[-1] == "checkpoint-step2.pth"
    loaded: Any = load_model(tiny.folder / "run")
    assert loaded.net.classifier[3].out_features == 10


def test_offline_it_says_what_to_download_and_where_to_put_it(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    download(monkeypatch, "mobilenet_v3_small", found=False)
    with pytest.raises(UsageError) as error:
        tiny.train(ARCH, *SMALL)
    text = str(error.value)
    assert text.startswith(
        "arch: the weights of mobilenet_v3_small are not on this machine, and downloading them failed: no"
    )
    assert "mobilenet_v3_small-047dcff4.pth where there is a network, and put it into" in text
    assert text.endswith("/checkpoints, or give the file as init_from=FILE")
    assert not (tiny.folder / "run").exists()


# -- timm -------------------------------------------------------------------------------------------------------------


def test_a_model_of_timm() -> None:
    pytest.importorskip("timm", reason="needs timm: make extra NAME=timm")
    config = checked({"type": "timm/test_vit", "args": {"pretrained": True, "drop_rate": 0.1}})
    net = config.build("arch")
    assert net.head.out_features == 7
    ((built, make),) = config.published
    assert built is net
    assert make.keywords == {"pretrained": True, "drop_rate": 0.1}
    assert "model.safetensors of timm/test_vit.r160_in1k in the Hugging Face hub" in published.where_to_get(make)
    tagged = checked({"type": "timm/test_vit.r160_in1k", "args": {"num_classes": 3}})
    assert tagged.build("arch").head.out_features == 3
    assert tagged.published == []


def test_a_builder_of_timm_that_does_not_name_its_class() -> None:
    pytest.importorskip("timm", reason="needs timm: make extra NAME=timm")
    net = checked({"type": "timm/repvit_m0_9", "args": {"drop_rate": 0.1}}).build("arch")
    assert net.num_classes == 7


@pytest.mark.parametrize(
    ("arch", "said"),
    [
        ("timm/convnext_tny", "unknown name 'timm/convnext_tny' (did you mean 'timm/convnext_tiny'?); timm has"),
        ("timm/test_vit.r160", "(did you mean 'timm/test_vit.r160_in1k'?)"),
        ({"type": "timm/test_vit", "args": {"drop_rat": 1}}, "unknown argument 'drop_rat' (did you mean 'drop_rate'?)"),
    ],
)
def test_errors(arch: Any, said: str) -> None:
    pytest.importorskip("timm", reason="needs timm: make extra NAME=timm")
    assert said in problem(arch)


def test_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setattr(published.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        LookupError, match="'timm/resnet18' is a model of timm, which is not installed: make extra NAME=timm"
    ):
        names.find("arch", "timm/resnet18")


def test_a_safetensors_file(tiny: Any, tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch", reason="needs safetensors: make extra NAME=timm")
    first = tiny.build(run="first")
    safetensors.save_file(first.model.state_dict(), tmp_path / "w.safetensors")
    second = tiny.build(f"init_from={tmp_path / 'w.safetensors'}", "seed=2")
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True))
    (tmp_path / "w.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:100])
    with pytest.raises(UsageError, match="it is incomplete, or no safetensors file: get it again"):
        tiny.build(f"init_from={tmp_path / 'w.safetensors'}")
