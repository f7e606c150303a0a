"""Test a run on its test data: python test.py -r saved/digits/RUN

Everything is rebuilt from the config in the checkpoint; the loader is asked for its test data with `training=False`.
"""

import sys
from pathlib import Path
from typing import Any

from utils import cli
from utils import run as runs


def build(config: Any, devices: str | None = None) -> Any:
    """A trainer that can evaluate, its data loader that of the test data."""
    from trainer import setup

    device = setup.device(config, devices)
    config.run.data_loader.args.update(training=False, shuffle=False, validation_split=0.0)
    config.run.init_from = None
    config.run.trainer.compile = False  # one pass does not repay it
    config.run.trainer.limit_batches = None  # all of the data, whatever the training was limited to
    config.run.trainer.accumulate, config.run.trainer.exact_ranks = 1, False  # of training, on its number of processes
    data_loader = config.build("data_loader")
    setup.loaders(config, device, data_loader)
    return config.build(
        "trainer",
        model=setup.model(config, device),
        criterion=config.build("loss"),
        metrics=config.build("metrics"),
        optimizer=None,
        config=config,
        device=device,
        data_loader=data_loader,
        callbacks=config.build("callbacks"),
    )


def main(argv: list[str] | None = None) -> None:
    args = cli.parse("Test a run, or one of its checkpoints, on its test data.", {}, argv, training=False)
    path: Path = runs.find_tested(args.resume or "")

    from trainer import setup, tested  # torch from here on
    from utils import launch

    config, saved = tested.load(path, args.overrides)
    if not launch.joined() and (count := len(launch.devices(config.run.n_gpu, args.devices)[0])) > 1:
        del saved  # each process loads it for itself
        launch.start(count, [__file__, *(sys.argv[1:] if argv is None else argv)])
        return
    with setup.processes(timeout=config.run.trainer.timeout):
        trainer = build(config, args.devices)
        tested.report(trainer, saved, path)


if __name__ == "__main__":
    runs.exit_with(main)
