"""Writes a model in each format, with its metadata."""

import importlib.util
import io
import json
import logging
import shutil
import warnings
from collections.abc import Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from trainer.export.module import layer_of
from utils.errors import Stopped, UsageError

Format = Literal["onnx", "torch_export", "safetensors", "aoti"]
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "torch_export": ".pt2", "safetensors": ".safetensors", "aoti": ".pt2"}
LARGEST = 2**31 - 2**24  # bytes of weights in an ONNX file
KEY = "groundwork"  # under which the metadata is
NEEDED = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "safetensors": ("safetensors",)}


class Input(NamedTuple):
    """One tensor that the module takes: an example, and the sizes of it that may vary, by axis."""

    example: Tensor
    sizes: Mapping[int, Any]

    def about(self) -> dict[str, Any]:
        """For the metadata: dtype and shape, where a size that may vary is a word."""
        shape = [
            ("length" if axis else "batch") if axis in self.sizes else n for axis, n in enumerate(self.example.shape)
        ]
        return {"dtype": str(self.example.dtype).removeprefix("torch."), "shape": shape}


def check_installed(chosen: Format) -> None:
    """Raises UsageError where a format cannot be written on this machine."""
    missing = [name for name in NEEDED.get(chosen, ()) if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"--format {chosen} needs {' and '.join(missing)}: make extra NAME=export installs what it needs"
        )
    if chosen == "aoti" and _internals() is None:
        raise UsageError("--format aoti needs trainer/export/torch_internals.py, which is not there; use torch_export")
    if chosen == "aoti" and not any(map(shutil.which, ("c++", "g++", "clang++", "cl"))):
        raise UsageError("--format aoti needs a C++ compiler, and there is none; torch_export works without one")


def write(chosen: Format, module: nn.Module, inputs: Sequence[Input], path: Path, about: dict[str, Any]) -> None:
    """module: a Predicting, in eval mode. about: the metadata, to which the inputs are added.

    Raises Stopped with the reason, and the layer, for what cannot be exported.
    """
    with quiet():
        if chosen == "safetensors":
            _safetensors(module, path, _text(about, inputs))
            return
        captured = _captured(module, inputs)
        text = _text(about, _varying(captured, inputs))
        if chosen == "torch_export":
            torch.export.save(captured, path, extra_files={KEY: text})
        elif chosen == "onnx":
            _onnx(captured, module, [one.example for one in inputs], path, text)
        else:
            _aoti(captured, path, text)


def inputs_of(examples: Sequence[Sequence[Tensor]]) -> list[Input]:
    """What may vary of the tensors of several batches: the batch size, and lengths.

    A length is each size of integers [B, T] and of numbers [B, T, F] or [B, C, T], and whatever differs between the
    batches. torch finds out which of them the model needs as they are.
    """
    found = []
    for tensors in zip(*examples, strict=True):
        first = tensors[0]
        sizes: dict[int, Any] = {0: torch.export.Dim.DYNAMIC} if first.dim() else {}
        of_sequences = first.dim() == 3 or (first.dim() == 2 and not first.is_floating_point())
        for axis in range(1, first.dim()):
            if of_sequences or len({tensor.shape[axis] for tensor in tensors}) > 1:
                sizes[axis] = torch.export.Dim.AUTO
        found.append(Input(first, sizes))
    return found


def _text(about: dict[str, Any], inputs: Sequence[Input]) -> str:
    return json.dumps(about | {"inputs": [one.about() for one in inputs]}, default=_plain)


def _varying(captured: Any, inputs: Sequence[Input]) -> list[Input]:
    """The inputs with the sizes that may vary in the captured program."""
    names = captured.graph_signature.user_inputs
    shapes = {node.name: node.meta["val"].shape for node in captured.graph.nodes if node.name in names}
    internals = _internals()
    fixed = internals.fixed_sizes(captured) if internals else set()
    found = []
    for i, (name, one) in enumerate(zip(names, inputs, strict=True)):
        varies = [axis for axis, n in enumerate(shapes[name]) if not isinstance(n, int) and (i, axis) not in fixed]
        found.append(Input(one.example, {axis: shapes[name][axis] for axis in varies}))
    return found


def _captured(module: nn.Module, inputs: Sequence[Input]) -> Any:
    examples, sizes = tuple(one.example for one in inputs), tuple(dict(one.sizes) for one in inputs)
    internals = _internals()
    try:
        with internals.any_size() if internals else nullcontext():
            program = torch.export.export(module, examples, dynamic_shapes=(sizes,))
    except Exception as e:
        raise Stopped(
            f"the model cannot be exported: {_reason(e)}{layer_of(e, module.get_submodule('model'))}\n"
            f"What depends on the values of a tensor (if, .item(), NumPy) has to be written with torch.where and the "
            f"like. --format safetensors keeps the weights alone"
        ) from e
    if internals:
        internals.forget_ones(program)
    return program


def _internals() -> Any:
    """The file of what leans on private names of torch, unless it is deleted."""
    try:
        from trainer.export import torch_internals
    except ImportError:
        return None
    return torch_internals


def _onnx(captured: Any, module: nn.Module, inputs: Sequence[Tensor], path: Path, text: str) -> None:
    if (size := sum(p.numel() * p.element_size() for p in module.parameters())) > LARGEST:
        raise UsageError(
            f"--format onnx: a file holds 2 GB at most, the weights are {size / 1e9:.1f} GB; use --format torch_export"
        )
    names = [f"input_{i}" for i in range(len(inputs))] if len(inputs) > 1 else ["input"]
    try:
        program = torch.onnx.export(
            captured, tuple(inputs), input_names=names, output_names=["output"], dynamo=True, verbose=False
        )
        assert program is not None
    except Exception as e:
        raise Stopped(
            f"ONNX has no counterpart of what the model does: {_reason(e)}{_node_of(e, captured)}\n"
            f"Write it with other operations, or use --format torch_export"
        ) from e
    program.model.metadata_props[KEY] = text
    program.save(str(path))


def _safetensors(module: nn.Module, path: Path, text: str) -> None:
    from safetensors.torch import save_file

    state = module.get_submodule("model").state_dict()
    # Clones, since tied weights share memory, which such a file cannot
    own = {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in state.items()}
    save_file(own, path, metadata={KEY: text})


def _aoti(captured: Any, path: Path, text: str) -> None:
    try:
        _internals().compile_ahead(captured, path, {KEY: text})
    except Exception as e:
        raise Stopped(
            f"AOTInductor could not compile the model: {_reason(e)}; --format torch_export needs no compiler"
        ) from e


def _reason(error: BaseException) -> str:
    """The line of an error that says most: torch puts explanations before and after it."""
    causes, cause = [error], error.__cause__
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__
    deepest = causes[-1]
    lines = [line.strip() for line in str(deepest).splitlines() if line.strip()]
    return f"{type(deepest).__name__}: {lines[0] if lines else ''}".rstrip(": ")


def _node_of(error: BaseException, captured: Any) -> str:
    """The layer of the operation that an error names."""
    text = f"{error} {error.__cause__}"
    for node in captured.graph.nodes:
        if node.op == "call_function" and str(node.target) in text and (stack := node.meta.get("nn_module_stack")):
            name, kind = list(stack.values())[-1]
            kind = kind if isinstance(kind, str) else kind.__name__
            return f", in the layer {name.removeprefix('L__self___model').lstrip('.') or name} ({kind.split('.')[-1]})"
    return ""


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


@contextmanager
def quiet() -> Any:
    """Without the notes that the exporters print and log."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)
