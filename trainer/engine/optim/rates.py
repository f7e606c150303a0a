"""The learning rates of a step, by the names that the log gives them."""

from typing import Any

from trainer.engine.optim.schedules import by_name


def learning_rates(optimizer: Any) -> dict[str, float]:
    """Of each optimizer and parameter group that has a name, as `lr_NAME`; `lr` for the others."""
    rates: dict[str, float] = {}
    for optimizer_name, one in by_name(optimizer).items():
        for options in one.param_groups:
            name = "_".join(filter(None, ("lr", optimizer_name, options.get("name"))))
            if "lr" in options:  # your own optimizer may have none
                rates.setdefault(name, float(options["lr"]))
    return rates
