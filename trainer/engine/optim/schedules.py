"""Builds the learning-rate schedules of a config, and steps them."""

import copy
import inspect
import warnings
from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer

from utils.errors import UsageError


def by_name(what: Any) -> dict[str, Any]:
    """Several parts by their names, {"": part} of one, {} of None; in a config, or as they were built."""
    if isinstance(what, Mapping) and "type" not in what:
        return dict(what)
    return {} if what is None else {"": what}


def total_steps(options: Any, steps_per_epoch: int) -> int:
    """Optimizer steps of the whole run: `epochs` or `max_steps`, whichever ends first."""
    lengths = [options.epochs and options.epochs * steps_per_epoch, options.max_steps]
    return min(n for n in lengths if n)


def build_lr_scheduler(config: Any, optimizer: Any, steps_per_epoch: int) -> "Schedule | dict[str, Schedule] | None":
    """The schedule of the config (None, one, or one per optimizer), its length filled in where it has one."""
    spec = config.run.lr_scheduler
    if isinstance(spec, Mapping):
        return {name: _build(config, part, optimizer[name], steps_per_epoch) for name, part in spec.items()}
    return None if spec is None else _build(config, spec, optimizer, steps_per_epoch)


def _build(config: Any, part: Any, optimizer: Optimizer, steps_per_epoch: int) -> "Schedule":
    options = config.run.trainer
    steps = total_steps(options, steps_per_epoch)
    named = config.resolve("lr_scheduler", part)
    parameters = inspect.signature(named).parameters
    if "lr_lambda" in parameters and parameters["lr_lambda"].default is inspect.Parameter.empty:
        raise UsageError(
            f"lr_scheduler: {part.type} needs a function, which a config cannot hold; define a function of (optimizer) "
            f"in trainer/optim.py that returns {part.type}(optimizer, ...), and name that"
        )
    per_step = part.interval == "step" if part.interval else "total_steps" in parameters
    length = steps if per_step else -(-steps // steps_per_epoch)
    given: dict[str, Any] = {
        name: length
        for name in ("total_steps", "T_max")
        if name in parameters and name not in part.args and parameters[name].default in (inspect.Parameter.empty, None)
    }
    if "total_steps" in given and {"epochs", "steps_per_epoch"} <= part.args.keys():
        given = {}  # OneCycleLR takes its length as these two as well
    given |= _per_group(part.args, optimizer)
    if _follows_a_value(named):
        if options.monitor == "off":
            raise UsageError(
                f"lr_scheduler: {part.type} follows trainer.monitor, which is off; give one, such as min val_loss"
            )
        given |= {} if "mode" in part.args else {"mode": options.monitor.split()[0]}
    scheduler = config.build_part("lr_scheduler", part, optimizer, **given)
    return Schedule(scheduler, per_step, {"type": part.type, "args": {**part.args, **given}})


def _per_group(args: Mapping[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """The learning rates that OneCycleLR and CyclicLR have for all groups alike, scaled as those of the groups are."""
    lr = optimizer.defaults.get("lr")
    rates = [group["lr"] for group in optimizer.param_groups]
    if not lr or all(rate == lr for rate in rates):
        return {}
    given = {name: args[name] for name in ("max_lr", "base_lr") if isinstance(args.get(name), int | float)}
    return {name: [value * rate / lr for rate in rates] for name, value in given.items()}


class Schedule:
    """A scheduler and when it steps: after each optimizer step, or after each epoch.

    A resume restores all of its state. Where the config has changed what it was made from (arguments, length, learning
    rate), it becomes the schedule of the new config at the same position.
    """

    def __init__(self, scheduler: Any, per_step: bool, made_from: Mapping[str, Any]) -> None:
        """made_from: type and args, for a resume to compare."""
        self.scheduler, self.per_step = scheduler, per_step
        self.on_value = _follows_a_value(scheduler)
        self.steps = 0  # taken by the scheduler
        groups = hyperparameters(scheduler.optimizer)
        self.made_from = {**made_from, "lr": [float(group.get("initial_lr", group["lr"])) for group in groups]}
        self._start = copy.deepcopy(scheduler.state_dict()), groups

    def after_step(self, end_of_epoch: bool) -> None:
        if not self.on_value and (self.per_step or end_of_epoch):
            self.scheduler.step()
            self.steps += 1

    def after_validation(self, value: float | None) -> None:
        if self.on_value and value is not None:
            self.scheduler.step(value)
            self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        return {"scheduler": self.scheduler.state_dict(), "steps": self.steps, "made_from": self.made_from}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if "made_from" not in state:  # format 1: the state of the scheduler
            state = {"scheduler": state, "steps": state["last_epoch"], "made_from": None}
        self.steps = state["steps"]
        if state["made_from"] == self.made_from or (self.on_value and state["made_from"] is None):
            self.scheduler.load_state_dict(copy.deepcopy(state["scheduler"]))
        elif self.on_value:
            self._load_changed(state["scheduler"], state["made_from"])
        else:
            self._repeat()

    def _repeat(self) -> None:
        """Take all steps again, from the start. Exact for every scheduler whose rates follow from the step count."""
        scheduler_state, groups = self._start
        self.scheduler.load_state_dict(copy.deepcopy(scheduler_state))
        for group, start in zip(self.scheduler.optimizer.param_groups, groups, strict=True):
            group.update(copy.deepcopy(start))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that the optimizer has not stepped
            try:
                for _ in range(self.steps):
                    self.scheduler.step()
            except ValueError as e:  # OneCycleLR, past its end
                raise UsageError(f"lr_scheduler: the new config's schedule ends before step {self.steps}: {e}") from e

    def _load_changed(self, state: Mapping[str, Any], before: Mapping[str, Any]) -> None:
        """A scheduler that follows a value: its state, with the arguments that changed."""
        own = dict(vars(self.scheduler))
        self.scheduler.load_state_dict(copy.deepcopy(dict(state)))
        old, new = before["args"], self.made_from["args"]
        for name in (name for name in {*old, *new} if old.get(name) != new.get(name)):
            attribute = name if name in own else f"{name}s"  # min_lr is kept as min_lrs
            if attribute not in own:
                raise UsageError(
                    f"lr_scheduler.args.{name}: {old.get(name)} -> {new.get(name)}: {self.made_from['type']} cannot "
                    f"change it in a run that has begun; keep it, or start a new run with init_from"
                )
            setattr(self.scheduler, attribute, own[attribute])
        rates = zip(self.scheduler.optimizer.param_groups, before["lr"], self.made_from["lr"], strict=True)
        for group, was, now in rates:
            if was != now:
                group["lr"] = group["lr"] * now / was if was else now


def hyperparameters(optimizer: Optimizer) -> list[dict[str, Any]]:
    """The options of each parameter group."""
    return [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]


def _follows_a_value(scheduler: Any) -> bool:
    """Does it step by a value, like ReduceLROnPlateau? A class or one of its objects."""
    return hasattr(scheduler, "step") and "metrics" in inspect.signature(scheduler.step).parameters
