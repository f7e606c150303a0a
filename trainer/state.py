"""What a checkpoint holds: the state of everything that evolves, found by its `state_dict`."""

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from logger.logger import log
from trainer.checkpoint import FORMAT, PROGRESS, SHARDS, clean
from utils.errors import Refused

NEW_RUN = "start a new run from these weights instead: init_from={path}"


def parts(trainer: Any) -> dict[str, Any]:
    """The attributes of a trainer that have a state, also inside lists and dicts: complete without being listed."""
    return {name: value for name, value in vars(trainer).items() if name != "run" and _evolves(value)}


def collect(trainer: Any) -> dict[str, Any]:
    """The whole state of a run. Over several ranks, all must call it."""
    state = {
        "format": FORMAT,
        "config": trainer.config.to_dict(),
        "step": trainer.step,
        "epoch": trainer.step // trainer.steps_per_epoch,
        "closed": trainer.closed,
        "skipped": sorted(trainer.skipped),
        "stop_reason": trainer.stop_reason,
        "environment": environment(trainer),
        "logs": trainer.reporter.sizes(),
        "unwritten": trainer.reporter.unwritten(),
    }
    return state | {name: _state(part) for name, part in parts(trainer).items()}


def restore(trainer: Any, state: Mapping[str, Any], path: Path) -> None:
    """Continue from a checkpoint; warns of what changed and of what is therefore not exact."""
    _refuse_other_kinds(trainer, state, path)
    old, new = state["config"]["trainer"]["monitor"], trainer.options.monitor
    if old != new:
        log.warning(f"trainer.monitor: {old} -> {new}; the best so far was of another: forgotten")
        state = {key: value for key, value in state.items() if key != "monitor"}
    load_parts(trainer, state, path)
    for name in state.keys() - set(parts(trainer)) - PROGRESS.keys() - {"monitor", SHARDS}:
        log.warning(f"{path.name}: its state of `{name}` is not used, the config of today has none")
    trainer.step, trainer.closed = state["step"], state["closed"]
    trainer.skipped, trainer.stop_reason = list(state["skipped"]), state["stop_reason"]
    _take_over_options(trainer, state["config"])
    for line in _differences(state["environment"], environment(trainer)):
        log.warning(line)


def load_parts(trainer: Any, state: Mapping[str, Any], path: Path) -> None:
    """Give every part of the trainer its state; raises Refused where one cannot take it over."""
    fit = None
    if trainer.sharded or SHARDS in state:
        from trainer.shards import Fitting  # takes half a second to import

        fit = Fitting(state, path, trainer.model if trainer.sharded else None)
    for name, part in parts(trainer).items():
        if name not in state or (state[name] == {} != _state(part)):  # {}: the scaler of a run in fp32
            if name == "model":
                raise Refused(f"{path} holds no `{name}`; " + NEW_RUN.format(path=path))
            log.warning(f"{path.name} holds no state of `{name}`: it starts afresh")
            continue
        try:
            _load(part, fit(part, state[name], name) if fit else state[name])
        except Exception as e:
            reason = "\n  ".join(str(e).strip().splitlines()[:8])
            raise Refused(
                f"{path}: its state of `{name}` does not fit the config's `{name}`:\n  {reason}\n"
                f"Continue with the config it was made with, or " + NEW_RUN.format(path=path)
            ) from e


def environment(trainer: Any) -> dict[str, Any]:
    """What the exact numbers of a run depend on besides its config."""
    sampler = trainer.data_loader.sampler
    return {
        "samples": sampler.n,
        "batch_size": trainer.data_loader.batch_size,
        "steps_per_epoch": trainer.steps_per_epoch,
        "ranks": sampler.world,
        "shards": sampler.world * sampler.accumulate,
        "device": trainer.device.type,
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "code": fingerprint(Path(__file__).parent.parent),
    }


@functools.cache  # of the code that runs, not of edits made meanwhile
def fingerprint(root: Path) -> str:
    """A digest of the project's own code, to tell on resume that it has changed."""
    digest = hashlib.blake2b(digest_size=8)
    rooms = ("data_loader", "model", "trainer", "utils")
    for path in sorted(p for room in rooms for p in (root / room).rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    effects = {
        "samples": "the epochs ahead hold other samples",
        "batch_size": "the steps ahead take other samples",
        "steps_per_epoch": "steps are counted on, so the epoch is another one",
        "ranks": "sums are rounded otherwise",
        "shards": "ranks x micro-batches changed: dropout draws anew, sums are rounded otherwise",
        "device": "numbers are rounded otherwise",
        "torch": "numbers may be rounded otherwise",
        "threads": "torch uses another number of CPU threads: numbers may be rounded otherwise",
        "code": "the code of this project changed since the checkpoint",
    }
    return [
        f"{key}: {old[key]} -> {new[key]}; not bit-exact from here on: {effect}"
        for key, effect in effects.items()
        if key in old and old[key] != new[key]
    ]


def _refuse_other_kinds(trainer: Any, state: Mapping[str, Any], path: Path) -> None:
    """Another optimizer or schedule would take over numbers that mean something else to it."""
    configs = state["config"], trainer.config.to_dict()
    for section in ("optimizer", "lr_scheduler"):
        before, after = ({name: p["type"] for name, p in by_name(c.get(section)).items()} for c in configs)
        if before and after and before != after:
            raise Refused(
                f"{path}: its state of `{section}` is of {', '.join(before.values())}, the config names "
                f"{', '.join(after.values())}\nContinue with the config it was made with, or "
                + NEW_RUN.format(path=path)
            )


def by_name(what: Any) -> dict[str, Any]:
    """Several parts by their names as they are, {"": part} of one, {} of None; in a config, or as they were built."""
    if isinstance(what, dict) and "type" not in what:
        return what
    return {} if what is None else {"": what}


def _take_over_options(trainer: Any, old: Mapping[str, Any]) -> None:
    """Arguments of the optimizer that the config changed since the checkpoint: lr, weight_decay, ..."""
    olds, news = by_name(old["optimizer"]), by_name(trainer.config.to_dict()["optimizer"])
    for name, optimizer in by_name(trainer.optimizer).items():
        before, after = olds[name]["args"], news[name]["args"]
        for key in {*before, *after}:
            if key in before and key in after and before[key] == after[key]:
                continue
            value = after.get(key, optimizer.defaults.get(key))
            for group in optimizer.param_groups:
                if key == "lr" and group.get("initial_lr"):  # under a schedule: by as much as its start has changed
                    group["lr"] *= value / group["initial_lr"]
                    group["initial_lr"] = value
                elif key in group:
                    group[key] = value
            for schedule in trainer.schedules():
                if key == "lr" and schedule.scheduler.optimizer is optimizer:
                    schedule.rebase(value)


def unwrap(model: nn.Module) -> nn.Module:
    """The model itself, inside what distributes it."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


def count(model: nn.Module) -> int:
    """Its parameters."""
    return sum(p.numel() for p in model.parameters())


def _evolves(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_evolves(v) for v in value.values())
    if isinstance(value, (list, tuple)):
        return any(_evolves(v) for v in value)
    return hasattr(value, "state_dict") and not isinstance(value, type)


def _state(part: Any) -> Any:
    if isinstance(part, nn.Module):
        return {clean(k): v for k, v in unwrap(part).state_dict().items()}
    if hasattr(part, "state_dict"):
        return part.state_dict()
    if isinstance(part, Mapping):
        return {k: _state(v) for k, v in part.items()}
    return [_state(v) for v in part] if isinstance(part, (list, tuple)) else None


def _lay_alike(optimizer: torch.optim.Optimizer) -> None:
    """Put each number of the state where the weight's is in memory: fused kernels go by that, not by the shape. The
    weights may be channels_last today, and not when they were saved."""
    for p, kept in optimizer.state.items():
        for key, value in kept.items():
            if type(value) is torch.Tensor and value.shape == p.shape and value.stride() != p.stride():
                kept[key] = torch.empty_like(p, dtype=value.dtype).copy_(value)


def _load(part: Any, state: Any) -> None:
    if isinstance(part, nn.Module):
        module = unwrap(part)
        names = {clean(k): k for k in module.state_dict()}
        module.load_state_dict({names.get(k, k): v for k, v in state.items()})
    elif isinstance(part, torch.optim.Optimizer):
        how: list[dict[str, Any]] = [{k: g[k] for k in ("fused", "foreach") if k in g} for g in part.param_groups]
        groups = state["param_groups"]
        if len(groups) == len(how):  # else torch says what does not fit
            groups = [{**group, **today} for group, today in zip(groups, how, strict=True)]  # not what, but how
        part.load_state_dict({**state, "param_groups": groups})
        _lay_alike(part)
    elif hasattr(part, "state_dict"):
        part.load_state_dict(state)
    elif isinstance(part, Mapping):
        if part.keys() != state.keys():
            raise ValueError(f"it has {', '.join(state)}; now there are {', '.join(part)}")
        for key in part:
            _load(part[key], state[key])
    elif isinstance(part, (list, tuple)):
        if len(part) != len(state):
            raise ValueError(f"it has {len(state)} entries; now there are {len(part)}")
        for mine, saved in zip(part, state, strict=True):
            _load(mine, saved)
