"""Checkpoints of sharded models: a small file, and a folder of torch.distributed.checkpoint beside it.

    python -m trainer.checkpoint.shards saved/NAME/RUN/checkpoints/checkpoint-step8.pth plain.pth

makes one plain file of both, in one process. The file holds everything but the values of sharded tensors, which are on
the device `meta` in it; each rank writes its shard of the values into the folder. The file is written last and names
the folder and its checksums, so there are both or there is no checkpoint.
"""

import itertools
import os
import pickle
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint import filesystem, metadata
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.optim import Optimizer

from trainer.checkpoint import files as checkpoint
from trainer.checkpoint import writer as writers
from trainer.checkpoint.files import SHARDS, BrokenCheckpoint
from trainer.checkpoint.writer import Checkpoints
from utils.errors import UsageError
from utils.exit_codes import exit_with
from utils.files import sync_folder
from utils.process import group
from utils.run_folder import find_checkpoint
from utils.tensors import local

# -- writing ----------------------------------------------------------------------------------------------------------


class ShardedCheckpoints(Checkpoints):
    """Checkpoints on all ranks: each copies and writes its shard, in the background too."""

    def __init__(self, folder: Path, keep_last: int) -> None:
        super().__init__(folder, keep_last)
        self.group: Any = dist.new_group(backend="gloo")  # the thread's own: steps continue meanwhile
        self.mesh = init_device_mesh("cpu", (group.world_size(),))

    def save(self, state: Mapping[str, Any], best: bool, suspect: Callable[[], None] | None = None) -> None:
        super().save(split(state), best, suspect)
        self.bytes_needed *= group.world_size()

    def _write(self, state: Mapping[str, Any], names: list[str]) -> None:
        """Raise on all ranks if it failed on any."""
        error = None
        try:
            files = self._write_shards(state)
            if group.is_main():
                folder = self._rename(state["step"])
                super()._write({**state, SHARDS: {"folder": folder, "files": files}}, names)
        except Exception as e:
            error = writers.reason(e)
        if failures := [reason for reason in group.gather(error, self.group) if reason]:
            if group.is_main():
                checkpoint.remove_unused(self.folder)
            raise OSError(0, failures[0])

    def _write_shards(self, state: Mapping[str, Any]) -> dict[str, list[int]]:
        """The files of all ranks: {name: [bytes, checksum]}."""
        writer = _Writer(self._temporary(state["step"]))
        tensors = {
            at: DTensor.from_local(
                mine, self.mesh, [Shard(0)], run_check=False, shape=whole.shape, stride=whole.stride()
            )
            for at, (whole, mine) in state[SHARDS].items()
        }
        try:
            dcp.save(tensors, storage_writer=writer, process_group=self.group)
        except dcp.CheckpointException as e:
            raise next(iter(e.failures.values()))[0] from None
        every = group.gather(writer.files.written, self.group)
        files = {name: entry for of_rank in every for name, entry in of_rank.items()}
        damaged = checkpoint.damaged(Path(writer.path), {name: files[name] for name in writer.files.written})
        if found := [text for text in group.gather(damaged, self.group) if text]:
            raise BrokenCheckpoint(found[0])
        return files

    def _temporary(self, step: int) -> Path:
        return self.folder / f".tmp-checkpoint-step{step}.shards"

    def _rename(self, step: int) -> str:
        """Give the folder its name, which no older checkpoint of that step may have: one that was set aside."""
        stem = f"checkpoint-step{step}"
        names = itertools.chain([f"{stem}.shards"], (f"{stem}-{i}.shards" for i in itertools.count(2)))
        name = next(name for name in names if not (self.folder / name).exists())
        sync_folder(self._temporary(step))
        os.rename(self._temporary(step), self.folder / name)
        sync_folder(self.folder)
        return name


def split(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state without the values of sharded tensors; under `shards` {path: (the same without, this rank's part)}."""
    parts: dict[str, tuple[Tensor, Tensor]] = {}

    def without(value: Any, at: str) -> Any:
        if isinstance(value, DTensor):
            if tuple(value.placements) != (Shard(0),):
                return value.full_tensor()
            parts[at] = torch.empty(value.shape, dtype=value.dtype, device="meta"), local(value.detach())
            return parts[at][0]
        if isinstance(value, Mapping):
            return {k: without(v, f"{at}.{k}") for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)([without(v, f"{at}.{i}") for i, v in enumerate(value)])
        return value

    return {name: without(part, name) for name, part in state.items()} | {SHARDS: parts}


class _Files(filesystem.FileSystem):
    """Records what is written: {name: [bytes, checksum]} of the data in memory, not of what is on the disk."""

    def __init__(self) -> None:
        self.written: dict[str, list[int]] = {}

    @contextmanager
    def create_stream(self, path: Any, mode: str) -> Iterator[Any]:
        with super().create_stream(path, mode) as file:
            stream = _Summed(file)
            yield stream
        if "w" in mode:
            self.written[Path(path).name.removesuffix(".tmp")] = [stream.size, stream.sum]


class _Summed:
    def __init__(self, file: Any) -> None:
        self.file, self.size, self.sum = file, 0, 0

    def write(self, data: Any) -> int:
        self.size, self.sum = self.size + len(data), zlib.crc32(data, self.sum)
        return self.file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


class _Writer(dcp.FileSystemWriter):
    def __init__(self, path: Path) -> None:
        super().__init__(
            path, per_thread_copy_ahead=0
        )  # everything is on the host; otherwise each rank would wait for GPU 0
        self.fs = self.files = _Files()

    def storage_meta(self) -> None:
        """Leave out the paths of this machine."""

    def write_data(self, plan: Any, planner: Any) -> Any:
        with self._explained():
            return super().write_data(plan, planner)

    def finish(self, metadata: Any, results: Any) -> None:
        with self._explained():
            super().finish(metadata, results)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except Exception as e:  # its cause would not reach the other ranks
            raise OSError(0, f"rank {group.rank()}: {writers.reason(e)}") from None


# -- reading ----------------------------------------------------------------------------------------------------------


class Fitting:
    """Gives the parts of a trainer their tensors, from a sharded checkpoint or a plain one, as shards or whole.

    Of a sharded checkpoint each rank reads only what it needs.
    """

    def __init__(self, state: Mapping[str, Any], path: Path, model: nn.Module | None = None) -> None:
        """model: where it is sharded, what a tensor of the same name and shape is sharded like."""
        self.folder = path.parent / state[SHARDS]["folder"] if SHARDS in state else None
        self.named = {checkpoint.clean(k): v for k, v in model.state_dict().items()} if model is not None else {}

    def __call__(self, part: Any, values: Any, at: str) -> Any:
        """The state of a part, `values` in the checkpoint, under the name `at`."""
        missing: dict[str, Tensor] = {}
        fitted = self._part(part, values, at, missing)
        if missing:
            assert self.folder is not None, "a tensor without values in a plain checkpoint"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that each process reads on its own
                dcp.load(missing, storage_reader=_Reader(self.folder), no_dist=True)
        return fitted

    def _part(self, part: Any, values: Any, at: str, missing: dict[str, Tensor]) -> Any:
        if isinstance(part, Mapping) and isinstance(values, Mapping):
            return {k: self._part(part.get(k), v, f"{at}.{k}", missing) for k, v in values.items()}
        if isinstance(part, Optimizer):  # its state is by the numbers of parameters
            parameters = enumerate(p for group in part.param_groups for p in group["params"])
            return self._fit(values, at, dict(parameters) if self.named else {}, None, missing)
        return self._fit(values, at, self.named, None, missing)

    def _fit(self, value: Any, at: str, likes: Mapping[Any, Any], like: Any, missing: dict[str, Tensor]) -> Any:
        if isinstance(value, Tensor):
            return self._tensor(value, at, like, missing)
        if isinstance(value, Mapping):
            return {k: self._fit(v, f"{at}.{k}", likes, likes.get(k, like), missing) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)([self._fit(v, f"{at}.{i}", likes, like, missing) for i, v in enumerate(value)])
        return value

    @staticmethod
    def _tensor(value: Tensor, at: str, like: Any, missing: dict[str, Tensor]) -> Tensor:
        sharded = isinstance(like, DTensor) and like.shape == value.shape
        if value.is_meta:
            empty = torch.empty_like(like.detach(), dtype=value.dtype) if sharded else None
            missing[at] = torch.empty(value.shape, dtype=value.dtype) if empty is None else empty
            return missing[at]
        if not sharded:
            return value
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


class _Reader(dcp.FileSystemReader):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        with open(folder / ".metadata", "rb") as file:
            self.metadata = _Plain(file).load()

    def read_metadata(self, *_: Any, **__: Any) -> metadata.Metadata:
        return self.metadata


def _memory_format(kind: Any, name: str) -> Any:
    """A member of torch's enum of memory formats: Python 3.11.2, Debian's, pickles it as `getattr(kind, name)`."""
    if kind is not metadata._MEM_FORMAT_ENCODING or name not in kind.__members__:
        raise BrokenCheckpoint("its .metadata names builtins.getattr, and loading that could run code")
    return kind[name]


class _Plain(pickle.Unpickler):
    """Unpickles descriptions of tensors only: any pickle may name a function to be run."""

    KINDS = {
        (kind.__module__, kind.__qualname__): kind
        for kind in (
            metadata.Metadata,
            metadata.MetadataIndex,
            metadata.TensorStorageMetadata,  # not BytesStorageMetadata: what that describes is unpickled
            metadata.TensorProperties,
            metadata.ChunkStorageMetadata,
            metadata._MEM_FORMAT_ENCODING,
            filesystem._StorageInfo,
            torch.Size,
            torch.serialization._get_layout,
        )
    }

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if (module, name) == ("builtins", "getattr"):
            return _memory_format
        if (module, name) not in self.KINDS:
            raise BrokenCheckpoint(f"its .metadata names {module}.{name}, and loading that could run code")
        return self.KINDS[module, name]


def load_weights(path: Path) -> dict[str, Tensor]:
    """The model's weights in a sharded checkpoint."""
    try:
        return whole(path, ["model"])["model"]
    except BrokenCheckpoint as e:
        raise UsageError(f"{path} cannot be used: {e}") from e


def whole(path: Path, names: list[str] | None = None) -> dict[str, Any]:
    """The state in a checkpoint with all values in it, or those of some parts; raises BrokenCheckpoint."""
    state = checkpoint.load(path)
    fit = Fitting(state, path)
    return {name: fit(None, state[name], name) for name in names or state if name != SHARDS}


def main(argv: list[str] | None = None) -> None:
    given = sys.argv[1:] if argv is None else argv
    if len(given) != 2 or given[0].startswith("-"):
        raise UsageError("usage: python -m trainer.checkpoint.shards CHECKPOINT OUT.pth (writes one plain file)")
    path, out = find_checkpoint(given[0]), Path(given[1])
    try:
        writers.write(whole(path), out)
    except BrokenCheckpoint as e:
        raise UsageError(f"{path} cannot be used: {e}") from e
    except OSError as e:
        raise UsageError(f"{out} could not be written: {e.strerror}") from e
    print(f"{out}: {path} in one file, {out.stat().st_size / 1e6:,.1f} MB")


if __name__ == "__main__":
    exit_with(main)
