"""What a checkpoint holds: the state of everything that changes, found by its `state_dict`."""

import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from logger.console import log
from trainer.checkpoint.files import FORMAT, PROGRESS, RAW_MODEL, SHARDS
from trainer.engine.optim.schedules import by_name
from trainer.engine.speed.memory_format import match_layout
from utils.errors import UsageError
from utils.tensors import load_weights, unwrap

if TYPE_CHECKING:
    from trainer.engine.base_trainer import BaseTrainer

NEW_RUN = "start a new run from these weights instead: init_from={path}"
ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("data_loader", "model", "trainer", "utils")


def parts(trainer: "BaseTrainer") -> dict[str, Any]:
    """The attributes of a trainer that have a state, also inside lists and dicts; not those that start with `_`."""
    return {name: value for name, value in vars(trainer).items() if not name.startswith("_") and _has_state(value)}


def collect(trainer: "BaseTrainer") -> dict[str, Any]:
    """The whole state of a run. Over several ranks, all must call it."""
    state = {
        "format": FORMAT,
        "config": trainer.config.to_dict(),
        "step": trainer.step,
        "epoch": trainer.step // trainer.steps_per_epoch,
        "last_completed_step": trainer.last_completed_step,
        "skipped": sorted(trainer.skipped),
        "stop_reason": trainer.stop_reason,
        "environment": environment(trainer),
        "facts": trainer.config.facts,
        "values": trainer.values,
        "logs": trainer.reporter.sizes(),
        "unwritten": trainer.reporter.unwritten(),
    }
    state |= {name: _state(part) for name, part in parts(trainer).items()}
    if averages := _averages(trainer):
        state |= {"model": {**state["model"], **averages}, RAW_MODEL: state["model"]}
    return state


def _averages(trainer: "BaseTrainer") -> dict[str, Any]:
    """The weights that callbacks evaluate with in place of the model's, by name."""
    averages: dict[str, Any] = {}
    for callback in trainer.callbacks:
        if hasattr(callback, "evaluated_weights"):
            averages |= callback.evaluated_weights()
    return averages


def restore(trainer: "BaseTrainer", state: Mapping[str, Any], path: Path) -> None:
    """Continue from a checkpoint; warns of what changed, and of what is no longer exact because of it."""
    _refuse_other_kinds(trainer, state, path)
    old, new = state["config"]["trainer"]["monitor"], trainer.options.monitor
    if old != new:
        log.warning(f"trainer.monitor: {old} -> {new}; the best value so far was another's: it starts afresh")
        state = {**state, "monitor": trainer.monitor.state_dict()}
    load_parts(trainer, state, path)
    for name in state.keys() - set(parts(trainer)) - PROGRESS.keys() - {SHARDS, RAW_MODEL}:
        log.warning(f"{path.name}: its state of `{name}` is not used: the current config has none")
    trainer.step, trainer.last_completed_step = state["step"], state["last_completed_step"]
    trainer.values = dict(state["values"])
    trainer.skipped, trainer.stop_reason = list(state["skipped"]), _stop_reason(trainer, state)
    _apply_changed_arguments(trainer, state["config"])
    _report_rates(trainer, state)
    for line in _differences(state["environment"], environment(trainer)):
        log.warning(line)


def _stop_reason(trainer: "BaseTrainer", state: Mapping[str, Any]) -> str | None:
    """Why a callback ended the run; no longer, if the callbacks or the length of the run have changed since."""
    old, new = state["config"], trainer.config.to_dict()
    changed = old.get("callbacks") != new["callbacks"] or any(
        old["trainer"].get(key) != new["trainer"][key] for key in ("epochs", "max_steps")
    )
    return None if changed else state["stop_reason"]


def load_parts(trainer: "BaseTrainer", state: Mapping[str, Any], path: Path) -> None:
    """Give every part of the trainer its state; raises UsageError where one does not fit."""
    fit = None
    if trainer.parallel.sharded_model() is not None or SHARDS in state:
        from trainer.checkpoint.shards import Fitting  # takes half a second to import

        fit = Fitting(state, path, trainer.parallel.sharded_model())
    for name, part in parts(trainer).items():
        key = RAW_MODEL if name == "model" and RAW_MODEL in state else name
        own = None if name == "model" else _state(part)
        if key not in state or (state[key] == {} != own):  # {}: the scaler of a run in fp32
            if name == "model":
                raise UsageError(f"{path} holds no `{name}`; " + NEW_RUN.format(path=path))
            if own not in ({}, []):
                log.warning(f"{path.name} holds no state of `{name}`: it starts afresh")
            continue
        try:
            _load(part, fit(part, state[key], key) if fit else state[key], name)
        except Exception as e:
            reason = "\n  ".join(str(e).strip().splitlines()[:8])
            raise UsageError(
                f"{path}: its state of `{name}` does not fit the config's `{name}`:\n  {reason}\n"
                f"Continue with the config it was made with, or " + NEW_RUN.format(path=path)
            ) from e


def environment(trainer: "BaseTrainer") -> dict[str, Any]:
    """Everything besides the config that a run's exact numbers depend on."""
    sampler = trainer.data_loader.sampler
    return {
        "samples": sampler.n,
        "batch_size": trainer.data_loader.batch_size,
        "steps_per_epoch": trainer.steps_per_epoch,
        "ranks": trainer.world_size,
        "shards": trainer.world_size * sampler.accumulate,
        "device": trainer.device.type,
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "code": fingerprint(ROOT),
    }


@functools.cache  # of the code that runs, not of edits made meanwhile
def fingerprint(root: Path) -> str:
    """A digest of the project's own code, to say on resume that it has changed."""
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(p for room in ROOMS for p in (root / room).rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    effects = {
        "samples": "the epochs ahead have other samples",
        "batch_size": "the steps ahead take other samples",
        "steps_per_epoch": "the step count continues; the epoch number changes",
        "ranks": "sums are rounded differently",
        "shards": "ranks x micro-batches changed: dropout draws other numbers, sums are rounded differently",
        "device": "numbers are rounded differently",
        "torch": "numbers may be rounded differently",
        "threads": "torch uses another number of CPU threads: numbers may be rounded differently",
        "code": "the code of this project changed since the checkpoint",
    }
    return [
        f"{key}: {old[key]} -> {new[key]}; not bit-exact from here on: {effect}"
        for key, effect in effects.items()
        if key in old and old[key] != new[key]
    ]


def _refuse_other_kinds(trainer: "BaseTrainer", state: Mapping[str, Any], path: Path) -> None:
    """Another optimizer or schedule would load numbers that mean something else to it."""
    configs = state["config"], trainer.config.to_dict()
    for section in ("optimizer", "lr_scheduler"):
        before, after = ({name: p["type"] for name, p in by_name(c.get(section)).items()} for c in configs)
        if before and after and before != after:
            raise UsageError(
                f"{path}: its state of `{section}` is of {', '.join(before.values())}, the config names "
                f"{', '.join(after.values())}\nContinue with the config it was made with, or "
                + NEW_RUN.format(path=path)
            )
    old, new = (by_name(c.get("optimizer")) for c in configs)
    for name in old:
        if _grouping(old[name]) != _grouping(new[name]):  # its state is by the numbers of parameters
            raise UsageError(
                f"{path}: optimizer: the config now groups the parameters in another way (match, no_decay or "
                f"layer_decay)\nContinue with the groups it was made with, whose options may change, or "
                + NEW_RUN.format(path=path)
            )


def _grouping(part: Mapping[str, Any]) -> tuple[Any, ...]:
    """What in the config of an optimizer decides which parameters are in which group."""
    return [group["match"] for group in part.get("groups", ())], part.get("no_decay"), "layer_decay" in part


def _apply_changed_arguments(trainer: "BaseTrainer", old: Mapping[str, Any]) -> None:
    """Arguments of the optimizer that the config changed since the checkpoint: lr, weight_decay, ...

    Each parameter group gets what it was built with today. A schedule has its own learning rates.
    """
    olds, news = by_name(old["optimizer"]), by_name(trainer.config.to_dict()["optimizer"])
    scheduled = [schedule.scheduler.optimizer for schedule in trainer.schedules()]
    for name, optimizer in by_name(trainer.optimizer).items():
        changed = {
            key
            for before, after in zip(_options(olds[name]), _options(news[name]), strict=True)
            for key in {*before, *after}
            if before.get(key) != after.get(key)
        }
        changed |= {"lr"} if "lr_factor" in changed else set()
        changed -= {"lr"} if optimizer in scheduled else set()
        for group, built in zip(optimizer.param_groups, trainer.built_with[name], strict=True):
            group.update({key: built[key] for key in changed if key in built})


def _options(part: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What the config gives an optimizer, and each group of it."""
    return [{**part["args"], "lr_factor": part.get("layer_decay")}, *part.get("groups", ())]


def _report_rates(trainer: "BaseTrainer", state: Mapping[str, Any]) -> None:
    """Say where a changed config moves the learning rate."""
    saved = _optimizer_states(state["optimizer"])
    lines = {}  # a group without weight decay has the learning rate of that with it
    for name, optimizer in by_name(trainer.optimizer).items():
        for before, group in zip(saved.get(name, {}).get("param_groups", ()), optimizer.param_groups, strict=False):
            was, now = float(before["lr"]), float(group["lr"])
            of = " ".join(filter(None, (name, group.get("name"))))
            if was != now:
                of_what = f" of {of}" if of else ""
                lines[of] = f"learning rate{of_what}: {was:.3g} -> {now:.3g}, as the config has changed"
    for line in lines.values():
        log.info(line)


def _optimizer_states(state: Mapping[str, Any]) -> dict[str, Any]:
    return {"": state} if "param_groups" in state else dict(state)


def _has_state(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_has_state(v) for v in value.values())
    if isinstance(value, (list, tuple)):
        return any(_has_state(v) for v in value)
    return hasattr(value, "state_dict") and not isinstance(value, type)


def _named(parts: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """The entries of a list by the names of their classes, numbered where one comes again."""
    seen: dict[str, int] = {}
    for part in parts:
        name = type(part).__name__
        seen[name] = seen.get(name, 0) + 1
        yield name if seen[name] == 1 else f"{name}_{seen[name]}", part


def _state(part: Any) -> Any:
    if isinstance(part, nn.Module):
        return {without_wrappers(k, unwrap(part)): v for k, v in unwrap(part).state_dict().items()}
    if hasattr(part, "state_dict"):
        return part.state_dict()
    if isinstance(part, Mapping):
        return {k: _state(v) for k, v in part.items() if _has_state(v)}
    return {name: _state(v) for name, v in _named(part) if _has_state(v)}


def without_wrappers(key: str, model: nn.Module) -> str:
    """The name of a weight without what torch.compile's wrappers put into it: by object, as a user's may look alike."""
    if "_orig_mod." not in key:
        return key
    wrappers = [name for name, module in model.named_modules() if type(module).__name__ == "OptimizedModule"]
    for name in sorted(wrappers, key=len, reverse=True):  # inner ones first
        prefix = f"{name}." if name else ""
        if key.startswith(f"{prefix}_orig_mod."):
            key = prefix + key.removeprefix(f"{prefix}_orig_mod.")
    return key


def _load(part: Any, state: Any, at: str) -> None:
    if isinstance(part, nn.Module):
        module = unwrap(part)
        names = {without_wrappers(k, module): k for k in module.state_dict()}
        load_weights(module, {names.get(k, k): v for k, v in state.items()})
    elif isinstance(part, torch.optim.Optimizer):
        _load_optimizer(part, state)
    elif hasattr(part, "state_dict"):
        part.load_state_dict(state)
    else:
        _load_several(part, state, at)


def _load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    how = [{k: g[k] for k in ("fused", "foreach", "name") if k in g} for g in optimizer.param_groups]
    state = _with_frozen(optimizer, state)
    groups = state["param_groups"]
    if len(groups) == len(how):  # otherwise torch reports the mismatch
        groups = [{**group, **today} for group, today in zip(groups, how, strict=True)]  # affects speed, not results
    optimizer.load_state_dict({**state, "param_groups": groups})
    match_layout(optimizer)  # the weights may be channels_last only today


def _with_frozen(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state of an optimizer that was made without frozen parameters (format 1), for one that has them too."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    trained = [i for i, p in enumerate(parameters) if p.requires_grad]
    saved = [number for group in state["param_groups"] for number in group["params"]]
    if len(saved) == len(parameters) or len(saved) != len(trained) or len(state["param_groups"]) != 1:
        return state
    place = dict(zip(saved, trained, strict=True))
    group = {**state["param_groups"][0], "params": list(range(len(parameters)))}
    return {**state, "state": {place[n]: kept for n, kept in state["state"].items()}, "param_groups": [group]}


def _load_several(part: Any, state: Any, at: str) -> None:
    """Parts in a dict or list, matched by name or class: extra or missing ones are not an error."""
    if isinstance(part, Mapping):
        mine = {k: v for k, v in part.items() if _has_state(v)}
    else:
        mine = {name: v for name, v in _named(part) if _has_state(v)}
        if isinstance(state, Sequence):  # format 1: by position
            if len(state) != len(part):
                raise ValueError(f"it has {len(state)} entries; now there are {len(part)}")
            state = {name: saved for (name, _), saved in zip(_named(part), state, strict=True)}
    for name in mine:
        if name in state:
            _load(mine[name], state[name], f"{at}.{name}")
        else:
            log.warning(f"the checkpoint holds no state of `{at}.{name}`: it starts afresh")
    for name in state.keys() - mine.keys():
        log.warning(f"the checkpoint's state of `{at}.{name}` is not used: the current config has none")
