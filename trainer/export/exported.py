"""Reads what export.py wrote: as a module that is called like the model, with the config of its run."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainer.engine.batches import spread_inputs
from trainer.export.formats import KEY, quiet
from trainer.export.module import Pixels, leaves
from utils.config import Config
from utils.config import load as load_config
from utils.errors import UsageError
from utils.tensors import load_weights


def source(path: Path, overrides: Sequence[str], files: Sequence[str] | None = None) -> tuple[Config, nn.Module]:
    """The config with the facts of an exported run, and its model. files: another config.

    Raises UsageError for a file that is not of this project, and for one of other classes than the config's data.
    """
    about, call = _opened(path)
    config = load_config(list(files) if files else [about["config"]], overrides)
    config.facts = about["facts"]
    config.check(train=False)
    if call is None:  # weights alone
        return config, _of_weights(path, config)
    return config, Exported(path, about, call)


class Exported(nn.Module):
    """Called with the inputs of the model. What runs it computes on the CPU."""

    def __init__(self, path: Path, about: dict[str, Any], call: Any) -> None:
        super().__init__()
        self.path, self.about, self.call = path, about, call
        pixels = about["preprocessing"]
        self.pixels = Pixels(pixels["mean"], pixels["std"], pixels["max_value"]) if pixels["included"] else None

    def forward(self, inputs: Any) -> Tensor:
        tensors = leaves(inputs)
        device = tensors[0].device
        tensors = [tensor.cpu() for tensor in tensors]
        if self.pixels is not None:
            tensors = [self.pixels.inverse(tensor) for tensor in tensors]
        expected = self.about["inputs"]
        given = [{"dtype": str(t.dtype).removeprefix("torch."), "shape": list(t.shape)} for t in tensors]
        if len(given) != len(expected) or any(not _fits(*pair) for pair in zip(given, expected, strict=True)):
            raise UsageError(
                f"{self.path}: the data is {_shown(given)}, but this model takes {_shown(expected)}; is it the export "
                f"of another model?"
            )
        return self.call(tensors).to(device)


def _fits(given: dict[str, Any], expected: dict[str, Any]) -> bool:
    sizes = zip(given["shape"], expected["shape"], strict=False)
    return (
        given["dtype"] == expected["dtype"]
        and len(given["shape"]) == len(expected["shape"])
        and all(isinstance(wanted, str) or size == wanted for size, wanted in sizes)
    )


def _shown(inputs: Sequence[dict[str, Any]]) -> str:
    return ", ".join(f"{one['dtype']} [{', '.join(map(str, one['shape']))}]" for one in inputs)


def _opened(path: Path) -> tuple[dict[str, Any], Any]:
    """The metadata, and what computes outputs from tensors; None for weights alone."""
    if path.suffix == ".onnx":
        text, call = _onnx(path)
    elif path.suffix == ".safetensors":
        text, call = _safetensors(path), None
    else:
        text, call = _pt2(path)
    try:
        return json.loads(text or ""), call
    except json.JSONDecodeError:
        raise UsageError(
            f"{path} has no metadata of export.py, so its classes and its preprocessing are not known; give a file "
            f"that export.py wrote"
        ) from None


def _onnx(path: Path) -> tuple[str | None, Any]:
    try:
        import onnxruntime
    except ImportError as e:
        raise UsageError("ONNX files are run by onnxruntime: make extra NAME=export installs it") from e
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as e:
        raise UsageError(f"{path} is not an ONNX file that can be run: {str(e).strip().splitlines()[0]}") from e
    names = [one.name for one in session.get_inputs()]

    def call(tensors: Sequence[Tensor]) -> Tensor:
        feed = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=False)}
        return torch.from_numpy(session.run(None, feed)[0])

    return session.get_modelmeta().custom_metadata_map.get(KEY), call


def _pt2(path: Path) -> tuple[str | None, Any]:
    extra = {KEY: ""}
    try:
        with quiet():
            module = torch.export.load(path, extra_files=extra).module()
        return extra[KEY], lambda tensors: module(*tensors)
    except Exception as e:
        try:
            from trainer.export import torch_internals

            compiled, metadata = torch_internals.load_compiled(path)
        except Exception:
            reason = str(e).strip().partition("\n")[0]
            raise UsageError(f"{path} is not a file of torch.export: {reason}") from e

    def call(tensors: Sequence[Tensor]) -> Tensor:
        found = compiled(*tensors)
        return found[0] if isinstance(found, (list, tuple)) else found

    return metadata.get(KEY), call


def _safetensors(path: Path) -> str | None:
    try:
        from safetensors import safe_open
    except ImportError as e:
        raise UsageError("these files are read by safetensors: make extra NAME=export installs it") from e
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get(KEY)
    except Exception as e:
        raise UsageError(f"{path} is not a sound safetensors file: {e}") from e


def _of_weights(path: Path, config: Config) -> nn.Module:
    from safetensors.torch import load_file

    model: nn.Module = config.build("arch")
    spread_inputs(model)
    try:
        weights = load_file(path).items()
        load_weights(model, {name: t.float() if t.is_floating_point() else t for name, t in weights})
    except RuntimeError as e:
        raise UsageError(f"{path}: its weights do not fit the config's arch: {str(e).splitlines()[-1].strip()}") from e
    return model.eval()
