"""export.py: each format agrees with the model, what does not is refused, and files are tested and predicted with."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import export as export_script
import predict as predict_script
from benchmarks import export as benchmark
from model import model as models
from tests.conftest import ROOT
from tests.test_test import test_py
from tests.tiny import Tiny, tiny
from trainer import load_model
from trainer.export import exported, formats, job
from trainer.export.module import Bag
from utils.config import names
from utils.errors import Stopped, UsageError

__all__ = ["test_py", "tiny"]

GALLERY = (
    "MnistModel", "MLP", "ConvNet", "SmallResNet", "UNet", "TabularMLP", "BagOfTokens", "TextCNN", "TextTransformer",
    "ViT", "GPT", "AudioCNN", "CNN1d", "GAN",
)  # fmt: skip
PARTS = {"Block", "CausalAttention", "TransformerBlock"}  # of a GPT and a ViT
LENGTHS = {"BagOfTokens", "TextCNN", "TextTransformer", "GPT", "AudioCNN", "CNN1d"}  # take inputs of any length
AS_TORCH_EXPORT = {"ConvNet", "TabularMLP", "GPT", "AudioCNN"}  # one of each kind of input; ONNX files are made from it
CONV = "arch={type: ConvNet, args: {widths: [4]}}"


def onnx_is_installed() -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason="needs ONNX: make extra NAME=export")


def export(tiny: Tiny, *argv: object) -> None:
    export_script.main(["-r", str(tiny.folder / "run"), *map(str, argv)])


def of_test_py(tiny: Tiny, test_py: Any, run: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The values that it prints."""
    capsys.readouterr()
    test_py.main(["-r", str(run)])
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]


@pytest.mark.slow
@pytest.mark.parametrize("chosen", ["onnx", "torch_export", "safetensors", "aoti"])
def test_a_file_is_tested_and_predicts_like_its_run(
    tiny: Tiny, test_py: Any, chosen: formats.Format, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("safetensors", reason="needs safetensors: make extra NAME=export")
    if chosen == "onnx":
        onnx_is_installed()
    try:
        formats.check_installed(chosen)
    except UsageError as e:
        pytest.skip(str(e))
    tiny.train(CONV, "callbacks=[EMA]")
    export(tiny, "--format", chosen)
    assert "largest difference from the model on real samples: " in capsys.readouterr().out
    file = tiny.folder / f"run/model{formats.SUFFIXES[chosen]}"
    expected = of_test_py(tiny, test_py, tiny.folder / "run", capsys)
    found = of_test_py(tiny, test_py, file, capsys)
    assert [line.split()[0] for line in found] == ["loss", "accuracy"] == [line.split()[0] for line in expected]
    for one, other in zip(found, expected, strict=True):
        assert float(one.split()[1]) == pytest.approx(float(other.split()[1]), rel=1e-5)
    assert expected[0] != of_test_py(tiny, test_py, raw_weights(tiny), capsys)[0]  # the averages were exported
    scan = np.load(ROOT / "data_loader/digits/digits.npz")["images"][1500]
    from PIL import Image

    Image.fromarray((scan / 16 * 255).astype(np.uint8)).save(tiny.folder / "scan.png")
    for run, out in ((tiny.folder / "run", "a.csv"), (file, "b.csv")):
        predict_script.main(["-r", str(run), "--data", str(tiny.folder / "scan.png"), "--out", str(tiny.folder / out)])
    assert (tiny.folder / "a.csv").read_bytes() == (tiny.folder / "b.csv").read_bytes()


def raw_weights(tiny: Tiny) -> Path:
    saved = tiny.load("checkpoint-step12.pth")
    saved["model"], saved["config"]["callbacks"] = saved.pop("raw_model"), []
    torch.save(saved, tiny.folder / "raw.pth")
    return tiny.folder / "raw.pth"


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("gallery")
    return folder, benchmark.gallery(folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", GALLERY)
def test_the_gallery(name: str, gallery: tuple[Path, dict[str, dict[str, Any]]]) -> None:
    """In each format; compared on samples of several sizes and lengths, which may vary as the metadata says."""
    onnx_is_installed()
    for needed, models_of in (("polars", ["TabularMLP"]), ("soundfile", ["AudioCNN"]), ("safetensors", GALLERY)):
        if name in models_of:
            pytest.importorskip(needed, reason="reads the samples of this model")
    folder, models_of_gallery = gallery
    run = benchmark.trained(name, models_of_gallery[name], folder)
    chosen: formats.Format
    for chosen in ("onnx", "torch_export", "safetensors"):
        if chosen == "torch_export" and name not in AS_TORCH_EXPORT:
            continue
        report = job.export(job.Source(str(run), []), job.Options(format=chosen))
        assert report.difference < 1e-5, chosen
        if chosen != "safetensors":
            _, model = exported.source(report.path, [])
            assert isinstance(model, exported.Exported)
            (first, *_) = model.about["inputs"]
            assert first["shape"][0] == "batch"
            assert first["shape"].count("length") == (name in LENGTHS), (chosen, first)


def test_the_gallery_is_whole() -> None:
    """Each model of model/ is exported by the test above."""
    offered = {name for name, thing in names.own_names("arch").items() if isinstance(thing, type)}
    left = offered - set(GALLERY) - PARTS
    assert not left, f"add {left} to benchmarks/export.py and to GALLERY"


@pytest.mark.slow
def test_preprocessing_half_and_sizes(tiny: Tiny) -> None:
    """The file takes pixels, of any number of images, and names its classes."""
    onnx_is_installed()
    import onnxruntime

    tiny.train(CONV)
    export(tiny, "--with-preprocessing", "--half")
    session = onnxruntime.InferenceSession(str(tiny.folder / "run/model.onnx"))
    about = json.loads(session.get_modelmeta().custom_metadata_map["groundwork"])
    assert about["class_names"] == [str(i) for i in range(10)]
    assert about["inputs"] == [{"dtype": "uint8", "shape": ["batch", 1, 8, 8]}]
    assert about["outputs"] == "logits"
    assert about["preprocessing"]["max_value"] == 16
    assert about["facts"]["num_classes"] == 10
    with np.load(ROOT / "data_loader/digits/digits.npz") as file:
        pixels = file["images"][:50][:, None].astype(np.uint8)
    model = load_model(tiny.folder / "run")
    for n in (1, 3, 50):
        found = session.run(None, {"input": pixels[:n]})[0]
        with torch.no_grad():
            expected = model((torch.from_numpy(pixels[:n]).float() / 16 - 0.305) / 0.375)
        np.testing.assert_allclose(found, expected.numpy(), atol=0.02)


def test_weights_alone_and_the_tolerance(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("safetensors", reason="needs safetensors: make extra NAME=export")
    tiny.train()
    file = tiny.folder / "run/model.safetensors"
    with pytest.raises(Stopped, match=r"is not written: it differs from the model by .* float16 may be too coarse"):
        export(tiny, "--format", "safetensors", "--half", "--tolerance", "1e-9")
    assert not file.exists()
    assert not list(file.parent.glob(".tmp*"))
    export(tiny, "--format", "safetensors")
    _, model = exported.source(file, [])
    weights = tiny.load("checkpoint-step12.pth")["model"]
    assert model.state_dict().keys() == weights.keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
    with pytest.raises(UsageError, match="--with-preprocessing: a safetensors file holds weights alone"):
        export(tiny, "--format", "safetensors", "--with-preprocessing")
    with pytest.raises(UsageError, match=r"--out .*x\.bin: give a name that ends in \.safetensors"):
        export(tiny, "--format", "safetensors", "--out", tiny.folder / "x.bin")


class Depends(nn.Module):
    """It takes another way where the values of a tensor say so."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)
        self.odd = Odd()

    def forward(self, x: Tensor) -> Tensor:
        return self.odd(self.layer(x.flatten(1)))


class Odd(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return -x if x.sum() > 0 else x


@pytest.mark.slow
def test_a_model_that_cannot_be_exported(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "MLP", lambda in_features, hidden: Depends())
    tiny.train()
    with pytest.raises(Stopped, match=r"cannot be exported: \w+: .*, in the layer odd \(Odd\), .*test_export.py:\d+\n"):
        export(tiny, "--format", "torch_export")
    assert not (tiny.folder / "run/model.pt2").exists()


@pytest.mark.slow
def test_files_that_are_not_ours(tiny: Tiny, tmp_path: Path, test_py: Any) -> None:
    onnx_is_installed()
    tiny.train()
    export(tiny)
    with pytest.raises(UsageError, match=r"-r .*model\.onnx: it is exported already"):
        export_script.main(["-r", str(tiny.folder / "run/model.onnx")])
    plain = torch.onnx.export(nn.Linear(4, 2).eval(), (torch.zeros(1, 4),), dynamo=True, verbose=False)
    assert plain is not None
    plain.save(str(tmp_path / "plain.onnx"))
    with pytest.raises(UsageError, match=r"plain\.onnx has no metadata of export\.py"):
        test_py.main(["-r", str(tmp_path / "plain.onnx")])
    (tmp_path / "broken.onnx").write_bytes(b"no")
    with pytest.raises(UsageError, match=r"broken\.onnx is not an ONNX file that can be run"):
        predict_script.main(["-r", str(tmp_path / "broken.onnx"), "--data", "x", "--out", str(tmp_path / "out.csv")])
    benchmark.write_mnist(tmp_path)
    mnist = f"data_loader={{type: MnistDataLoader, args: {{data_dir: {tmp_path}}}}}"
    said = r"the data is float32 \[\d+, 1, 28, 28\], but this model takes float32 \[batch, 1, 8, 8\]; is it the export"
    with pytest.raises(UsageError, match=said):
        test_py.main(["-r", str(tiny.folder / "run/model.onnx"), mnist])


def test_a_bag_is_the_embedding_bag() -> None:
    tokens = torch.randint(0, 9, (4, 6), generator=torch.Generator().manual_seed(0))
    for mode in ("sum", "mean"):
        for padding in (None, 0):
            bag = nn.EmbeddingBag(9, 3, mode=mode, padding_idx=padding)
            torch.testing.assert_close(Bag(bag)(tokens), bag(tokens))
