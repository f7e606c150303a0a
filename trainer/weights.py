"""`init_from`: a new run begins with weights of an earlier one, of the 2020 template, or of a plain state_dict."""

import contextlib
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import nn

from trainer.checkpoint import BrokenCheckpoint, clean, verify
from utils.errors import Refused

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


def load(model: nn.Module, path: Path) -> list[str]:
    """Load the weights that fit by name and shape; the lines say what was missing, extra or of another shape.

    Raises Refused where none fits.
    """
    weights, own = read(path), model.state_dict()
    fits = {k: v for k, v in weights.items() if k in own and own[k].shape == v.shape}
    shapes = [f"{k} {list(weights[k].shape)} -> {list(own[k].shape)}" for k in weights if k in own and k not in fits]
    missing, extra = [k for k in own if k not in weights], [k for k in weights if k not in own]
    if not fits:
        raise Refused(
            f"init_from {path}: none of its {len(weights)} tensors fits the model's {len(own)} by name and shape; "
            f"it has {', '.join(list(weights)[:3])}, ...; the model has {', '.join(list(own)[:3])}, ..."
        )
    model.load_state_dict(fits, strict=False)
    lines = [f"init_from {path}: {len(fits)} of the model's {len(own)} tensors loaded"]
    for what, keys in (
        ("missing there, left as initialised", missing),
        ("not in the model, left out", extra),
        ("of another shape, left as initialised", shapes),
    ):
        if keys:
            lines.append(f"{len(keys)} {what}: {', '.join(keys)}")
    return lines


def read(path: Path) -> dict[str, torch.Tensor]:
    """The model's weights in such a file, by name, on the CPU.

    Raises Refused where the file cannot be read without running code from it.
    """
    if not path.is_file():
        raise Refused(f"{path}: no such file; give a checkpoint, as saved/NAME/RUN/checkpoints/model_best.pth")
    try:
        if zipfile.is_zipfile(path):  # files of torch before 1.6 are not
            verify(path)
        with _legacy_globals():
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:
        why = e if isinstance(e, BrokenCheckpoint) else "it holds Python objects, and loading those could run code"
        raise Refused(
            f"{path} cannot be used: {why}. If you trust it, convert it once where it was made: "
            f"torch.save(model.state_dict(), 'weights.pth')"
        ) from e
    for key in ("model", "state_dict"):  # ours; the 2020 template's
        if isinstance(state, dict) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(v, torch.Tensor) for v in state.values()) or not state:
        raise Refused(f"{path} holds no model weights: a state_dict, or a checkpoint with `model` or `state_dict`")
    if any(v.is_meta for v in state.values()):  # a sharded checkpoint
        from trainer import shards  # takes half a second to import

        return shards.load_weights(path)
    return {clean(k): v for k, v in state.items()}


@contextlib.contextmanager
def _legacy_globals() -> Iterator[None]:
    """Let a checkpoint of the 2020 template name what its config and its best value were made of: as a stand-in."""

    class Nothing:
        """Takes whatever it is made of, and runs no code of it."""

        def __new__(cls, *_: object) -> "Nothing":
            return super().__new__(cls)

        def __init__(self, *_: object) -> None: ...

        def __setstate__(self, _: object) -> None: ...

        def __hash__(self) -> int:
            return 0

    with torch.serialization.safe_globals([(Nothing, name) for name in LEGACY]):
        yield
