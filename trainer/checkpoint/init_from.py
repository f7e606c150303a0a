"""`init_from`: a new run begins with weights of an earlier one, of the 2020 template, or of a plain state_dict."""

import contextlib
import os
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainer.checkpoint.files import verify
from utils.config import published
from utils.errors import UsageError
from utils.process.group import barrier, is_local_main
from utils.tensors import load_weights

LEGACY = (  # what a 2020-template checkpoint holds besides tensors and plain types
    "parse_config.ConfigParser",
    "parse_config.parse_config.ConfigParser",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "pathlib._local.PosixPath",
    "datetime.datetime",
    "numpy.dtype",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtypes.Float64DType",
    "numpy.dtypes.Float32DType",
)

OLD_FORMAT = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how files of torch before 1.6 begin


def load(model: nn.Module, path: Path) -> list[str]:
    """Load the weights that fit by name and shape; the lines say what was missing, unused or of another shape.

    Raises UsageError where none fits.
    """
    prefix, weights = _best(path, model.state_dict())
    return _load(model, weights, f"init_from {path}", f", without the prefix {prefix}" if prefix else "")


def load_published(config: Any) -> list[str]:
    """Load what its libraries publish into the model that a config has built, and say as `load` does what did not fit.

    Downloads it if need be; raises UsageError where that fails.
    """
    lines = []
    for model, make in config.published:
        name, source = getattr(make.func, "timm_name", make.func.__name__), None
        if is_local_main():
            source = _published(name, make)
        barrier()  # the others find what was downloaded
        weights = (source or _published(name, make)).state_dict()
        lines += _load(model, weights, f"arch: weights of {name}")
    config.published = []
    return lines


def _published(name: str, make: Any) -> nn.Module:
    try:
        with torch.random.fork_rng(devices=[]):
            return make()
    except Exception as e:  # each library and each kind of network has its own
        why = str(e).strip().partition("\n")[0] or type(e).__name__
        raise UsageError(
            f"arch: the weights of {name} are not on this machine, and downloading them failed: {why}. "
            + published.where_to_get(make)
        ) from e


def _load(model: nn.Module, weights: Mapping[str, Any], where: str, without: str = "") -> list[str]:
    own = model.state_dict()
    fits = _fitting(weights, own)
    if not fits:
        raise UsageError(
            f"{where}: none of its {len(weights)} tensors fits the model's {len(own)} by name and shape; "
            f"it has {', '.join(list(weights)[:3])}, ...; the model has {', '.join(list(own)[:3])}, ..."
        )
    load_weights(model, fits, strict=False)
    lines = [f"{where}: {len(fits)} of the model's {len(own)} tensors loaded{without}"]
    shapes = [k for k in weights if k in own and k not in fits]
    missing = [k for k in own if k not in weights]
    if (head := _head(model)) and not missing and {k.rpartition(".")[0] for k in shapes} == {head}:
        for k in shapes:  # as in arXiv:2010.11929: large random weights would spoil the first steps
            own[k].zero_()
        sizes = ", ".join(f"{k} {list(weights[k].shape)} -> {list(own[k].shape)}" for k in shapes)
        lines.append(f"{head} is a fresh head, which starts from zero: {sizes}")
        shapes = []
    for what, keys in (
        ("missing there, left as initialized", missing),
        ("not in the model, left out", [k for k in weights if k not in own]),
        (
            "of another shape, left as initialized",
            [f"{k} {list(_shape(weights[k]) or ())} -> {list(_shape(own[k]) or ())}" for k in shapes],
        ),
    ):
        if keys:
            lines.append(f"{len(keys)} {what}: {', '.join(keys)}")
    return lines


def _head(model: nn.Module) -> str | None:
    """The name of a model's last layer with weights, if it is linear or a convolution."""
    layers = [(name, m) for name, m in model.named_modules() if any(True for _ in m.parameters(recurse=False))]
    name, last = layers[-1] if layers else ("", model)
    return name if isinstance(last, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)) else None


def read(path: Path, own: Mapping[str, Any]) -> dict[str, Any]:
    """The weights in a file that fit best into `own`, a model's state_dict; on the CPU.

    Raises UsageError where the file cannot be read without running code from it.
    """
    return _best(path, own)[1]


def _best(path: Path, own: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """A prefix of names, and the weights without it: of all state_dicts in the file, what fits best."""
    found = list(_state_dicts(_read(path)))
    if not found:
        raise UsageError(f"{path} holds no model weights: a state_dict, or a checkpoint with `model` or `state_dict`")
    if any(v.is_meta for v in found[0].values() if isinstance(v, Tensor)):  # a sharded checkpoint
        from trainer.checkpoint import shards  # takes half a second to import

        return "", shards.load_weights(path)
    found += [{k.replace("_orig_mod.", ""): v for k, v in weights.items()} for weights in found]  # of torch.compile
    best, most = ("", found[0]), -1
    for weights in found:
        for prefix, part in _without_prefixes(weights):
            fits = len(_fitting(part, own))
            if fits > most and (not prefix or 2 * fits >= len(part)):  # a few may fit by chance
                best, most = (prefix, part), fits
    return best


def _state_dicts(data: Any, depth: int = 4) -> Iterator[dict[str, Any]]:
    """All mappings of names to tensors, some levels deep; ours and the 2020 template's first."""
    if not depth or not isinstance(data, Mapping) or not all(isinstance(key, str) for key in data):
        return
    if any(isinstance(value, Tensor) for value in data.values()):
        yield dict(data)
    for key in sorted(data, key=lambda key: key not in ("model", "state_dict")):
        yield from _state_dicts(data[key], depth - 1)


def _without_prefixes(weights: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """(prefix, the weights whose names begin with it, without it): of wrappers, or of a model that contained it."""
    yield prefix, weights
    for head in dict.fromkeys(key.partition(".")[0] + "." for key in weights if "." in key):
        if prefix.count(".") < 3:
            part = {key.removeprefix(head): v for key, v in weights.items() if key.startswith(head)}
            yield from _without_prefixes(part, prefix + head)


def _fitting(weights: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in weights.items() if k in own and _shape(own[k]) == _shape(v)}


def _shape(value: Any) -> torch.Size | None:
    return value.shape if isinstance(value, Tensor) else None  # a module's extra state may be anything


def _read(path: Path) -> Any:
    if not os.path.isfile(path):  # Path raises for a long name
        raise UsageError(f"{path}: no such file; give a checkpoint, as saved/NAME/RUN/checkpoints/model_best.pth")
    with open(path, "rb") as file:
        begin = file.read(len(OLD_FORMAT))
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    is_zip = zipfile.is_zipfile(path)
    if not is_zip and begin != OLD_FORMAT:
        kind = "written by pickle alone" if begin[:1] == b"\x80" else f"it begins with {begin.decode('latin-1')!r}"
        raise UsageError(
            f"{path} is not a torch.save file: {kind if begin else 'it is empty'}. Give a checkpoint, or a state_dict "
            f"saved by torch.save(model.state_dict(), 'weights.pth')"
        )
    try:
        if is_zip:
            verify(path)
        with _legacy_globals():
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:
        why = str(e).splitlines()[0] if str(e) else type(e).__name__
        if isinstance(e, pickle.UnpicklingError):
            why = "it holds Python objects, and loading those could run code"
        raise UsageError(
            f"{path} cannot be used: {why}. If you trust it, convert it once where it was made: "
            f"torch.save(model.state_dict(), 'weights.pth')"
        ) from e


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise UsageError(
            f"{path}: files of this kind need safetensors, which is not installed: make extra NAME=timm"
        ) from None
    try:
        return load_file(path)
    except Exception as e:  # not all versions have a class SafetensorError
        raise UsageError(f"{path} cannot be used: {e}; it is incomplete, or no safetensors file: get it again") from e


@contextlib.contextmanager
def _legacy_globals() -> Iterator[None]:
    """Let a checkpoint of the 2020 template name what its config and its best value were made of: as a stand-in."""

    class Nothing:
        """Accepts any arguments and runs none of the pickled code."""

        def __new__(cls, *_: object) -> "Nothing":
            return super().__new__(cls)

        def __init__(self, *_: object) -> None: ...

        def __setstate__(self, _: object) -> None: ...

        def __hash__(self) -> int:
            return 0

    with torch.serialization.safe_globals([(Nothing, name) for name in LEGACY]):
        yield
