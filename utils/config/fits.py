"""Do the parts of a config fit together? Checks `monitor` and the names of metrics."""

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from utils.config import names, schema
from utils.config.files import did_you_mean, nearest

if TYPE_CHECKING:
    from utils.config.config import Config


def metric_problems(config: "Config", trainer: Any) -> list[str]:
    """An error for each metric with the name of a loss that the trainer logs."""
    place, labels = config.tree.place(("metrics",)), [part.label for part in config.run.metrics]
    return [
        f"{place}: {trainer.__name__} logs a {name} itself; give the metric another, name: NAME"
        for name in getattr(trainer, "loss_names", ())
        if name in labels
    ]


def monitor_problems(config: "Config", trainer: Any, loader: Callable[..., Any]) -> list[str]:
    """An error if `monitor` names a value that the run never produces."""
    if config.run.trainer.monitor == "off":
        place = config.tree.place(("trainer", "keep_best"))
        needed = config.run.trainer.keep_best > 1
        return [f"{place}: keep_best needs a monitor, for example monitor: min val_loss"] if needed else []
    name = config.run.trainer.monitor.split()[1]
    metrics = [part.label for part in config.run.metrics]
    values = [*getattr(trainer, "loss_names", ("loss",)), *metrics]
    own_sets = any(names.loader_mentions(word, loader) for word in ("valid_dataset", "split_validation"))
    prefixes = _validation_prefixes(config, loader, own_sets)
    known = [*(f"{prefix}{value}" for prefix in prefixes for value in values), *values]

    plain = name.removeprefix("train/")
    if prefixes and name.startswith("valid/"):
        plain = f"val_{name.removeprefix('valid/')}"
    elements = tuple(f"{prefix}{metric}_" for metric in metrics for prefix in ("", *prefixes))
    if plain in known or plain.startswith(elements):  # elements of a metric: known only when it is computed
        return []
    if own_sets and plain.startswith("val_") and plain.endswith(tuple(f"_{value}" for value in values)):
        return []  # of a validation set that has a name in the code
    part = next((plain.removeprefix(prefix) for prefix in prefixes if plain.startswith(prefix)), plain)
    with contextlib.suppress(LookupError):  # an unknown loss has an error of its own
        if names.loader_mentions(part, config.resolve("loss", config.run.loss)):
            return []  # an entry of the dict that a loss returns
    hint = did_you_mean(nearest(name, known)) if prefixes else " without validation (validation_split is 0)"
    place = config.tree.place(("trainer", "monitor"))
    return [f"{place}: the run never produces '{name}'{hint}; it will produce {', '.join(known)}"]


def _validation_prefixes(config: "Config", loader: Callable[..., Any], own_sets: bool) -> list[str]:
    """The prefixes of values of each validation set in the log: val_, val_NAME_. own_sets: whether the loader's code
    makes some."""
    split = names.accepted("data_loader", loader).parameters.get("validation_split")
    args, sets = config.run.data_loader.args, config.run.valid_data_loader
    held_out = args.get("validation_split", split.default if split else 1) or args.get("folds") or own_sets
    prefixes = ["val_"] if held_out or isinstance(sets, schema.Part) else []
    return prefixes + ([f"val_{name}_" for name in reversed(sets)] if isinstance(sets, dict) else [])
