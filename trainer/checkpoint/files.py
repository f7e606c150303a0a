"""Checkpoint files: their names, what is in them, and whether they are sound. writer.py writes them."""

import re
import shutil
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from logger.console import log
from utils.errors import Stopped
from utils.run_folder import BEST

FORMAT = 2
SHARDS = "shards"  # the key under which a sharded checkpoint describes the folder beside it (shards.py)
RAW_MODEL = "raw_model"  # the weights that training continues from, where `model` holds others: averages
PROGRESS: dict[str, Any] = {  # what every checkpoint holds besides the states of the trainer's parts
    "format": int,
    "config": dict,
    "step": int,
    "epoch": int,
    "last_completed_step": int,
    "skipped": list,
    "stop_reason": (str, type(None)),
    "environment": dict,
    "facts": dict,
    "values": dict,
    "logs": dict,
    "unwritten": dict,
}


class BrokenCheckpoint(Exception):
    """A file is not a sound checkpoint; the message says why."""


def name_of(step: int) -> str:
    return f"checkpoint-step{step}.pth"


def step_of(path: Path) -> int:
    """The step in a checkpoint's name, -1 where there is none."""
    match = re.fullmatch(r"checkpoint-step(\d+)\.pth", path.name)
    return int(match[1]) if match else -1


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, newest first."""
    return sorted((p for p in folder.glob("checkpoint-step*.pth") if step_of(p) >= 0), key=step_of, reverse=True)


def remove_leftovers(folder: Path) -> None:
    """Delete what killed writers left unfinished. Only the process that holds the run's lock may call this."""
    for path in folder.glob(".tmp-*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    remove_unused(folder)


def remove_unused(folder: Path) -> None:
    """Delete shards, half-written ones too, that no checkpoint refers to; those that were set aside count."""
    if not (found := list(folder.glob("*.shards"))):
        return
    used = set[str]()
    for path in folder.glob("*.pth*"):
        try:
            used.add(torch.load(path, map_location="cpu", weights_only=True, mmap=True)[SHARDS]["folder"])
        except KeyError:
            continue  # a plain one
        except Exception:  # a damaged one: its folder has the name of its step
            used |= {shards.name for shards in found if shards.name.startswith(path.name.split(".")[0])}
    for path in found:
        if path.name not in used:
            shutil.rmtree(path, ignore_errors=True)


def verify(path: Path) -> None:
    """Raise BrokenCheckpoint unless every record of the file has the checksum that was written with it.

    torch.load ignores these checksums: it loads nine out of ten flipped bits without an error.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
            crcs = [info.CRC for info in archive.infolist()]
    except Exception as e:  # a damaged file makes zipfile raise all kinds of errors
        raise BrokenCheckpoint(f"it is damaged or cut off ({e})") from e
    if bad:
        raise BrokenCheckpoint(f"the checksum of {bad} is wrong")
    if not crcs:
        raise BrokenCheckpoint("it is empty")


def damaged(folder: Path, files: Mapping[str, list[int]]) -> str | None:
    """What is wrong with files of known length and checksum, {name: [bytes, CRC-32]}; None where nothing is."""
    for name, (size, checksum) in files.items():
        if Path(name).name != name or not (folder / name).is_file():
            return f"{folder.name}/{name} is missing"
        crc = 0
        try:
            with open(folder / name, "rb") as file:
                while block := file.read(2**20):
                    crc = zlib.crc32(block, crc)
                if (file.tell(), crc) != (size, checksum):
                    return f"{folder.name}/{name} is damaged or cut off"
        except OSError as e:
            return f"{folder.name}/{name} cannot be read: {e.strerror}"
    return None


def _verify_shards(folder: Path, entry: Any) -> None:
    """Raise BrokenCheckpoint unless the shards that a checkpoint in this folder refers to are complete."""
    try:
        name, files = entry["folder"], entry["files"]
        why = damaged(folder / name, files) if Path(name).name == name else f"its shards lie elsewhere: {name}"
    except (KeyError, TypeError, ValueError, AttributeError):
        why = "its entry of shards is not valid"
    if why:
        raise BrokenCheckpoint(why)


def load(path: Path, look: bool = True) -> dict[str, Any]:
    """The state in a checkpoint, on the CPU; raises BrokenCheckpoint, saying why, if it is not sound.

    Of a sharded one the tensors are on `meta`; shards.py reads the shards, whose checksums this checks.
    """
    if not path.is_file():
        raise BrokenCheckpoint("it is not a file" if path.exists() else "it does not exist")
    verify(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:
        reason = str(e).splitlines()[0]
        if "weights" in str(e).lower():
            reason = "it holds Python objects besides tensors and plain types, and loading those could run code"
        raise BrokenCheckpoint(reason) from e
    if not isinstance(state, dict) or state.get("format") not in range(1, FORMAT + 1):
        raise BrokenCheckpoint(f"it is not a checkpoint of this template in format 1 to {FORMAT}")
    if state["format"] == 1:
        state = _from_format_1(state)
    wrong = [key for key, kind in PROGRESS.items() if not isinstance(state.get(key), kind)]
    if wrong:
        raise BrokenCheckpoint(f"it has no usable {', '.join(wrong)}")
    if step_of(path) not in (-1, state["step"]):
        raise BrokenCheckpoint(f"it is named for another step than {state['step']}, which it holds")
    if SHARDS in state and look:
        _verify_shards(path.parent, state[SHARDS])
    best_step = state.get("monitor", {}).get("best_step", state["step"])
    if path.name == BEST and best_step != state["step"]:
        raise BrokenCheckpoint(f"it holds step {state['step']}, and the best is step {best_step}")
    return state


def _from_format_1(state: Mapping[str, Any]) -> dict[str, Any]:
    """Format 1 had no facts and values, `closed` for last_completed_step, and the weights in training as `model`."""
    renamed = {"last_completed_step" if key == "closed" else key: value for key, value in state.items()}
    if SHARDS in state:  # whose tensors have their names in the folder, too
        return renamed | {"format": FORMAT, "facts": {}, "values": {}}
    averages = [c["average"] for c in state.get("callbacks") or [] if isinstance(c, Mapping) and "average" in c]
    if len(averages) == 1 and averages[0]:  # of EMA
        renamed |= {"model": {**state["model"], **averages[0]}, RAW_MODEL: state["model"]}
    return renamed | {"format": FORMAT, "facts": {}, "values": {}}


def newest_sound(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest sound checkpoint, or None if there is none at all; warns of what is wrong with newer ones.

    Raises Stopped where there are checkpoints and none is sound.
    """
    broken: list[str] = []
    found: tuple[Path, dict[str, Any]] | None = None
    for path in [*checkpoints(folder), *([folder / BEST] if (folder / BEST).exists() else [])]:
        if found and (path.name != BEST or not broken):
            continue  # use the best only if newer ones are broken: it may lie between those and the sound one
        try:
            state = load(path)
        except BrokenCheckpoint as e:
            broken.append(f"{path.name}: {e}")
            if not found:
                log.warning(f"{path} cannot be used: {e}; trying an older one")
            continue
        if found is None or state["step"] > found[1]["step"]:
            found = path, state
    if found is None and broken:
        raise Stopped(
            f"no usable checkpoint in {folder}:\n  "
            + "\n  ".join(broken)
            + "\nRestore one of them from a backup, or start a new run (without -r); nothing was changed here."
        )
    return found


def clean(key: str) -> str:
    """A parameter's name in a file by others, without what DistributedDataParallel and torch.compile put before it."""
    return key.replace("_orig_mod.", "").removeprefix("module.")
