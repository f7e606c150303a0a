"""Test a run on its test data: python test.py -r saved/digits/RUN

Everything is rebuilt from the config in the checkpoint; the loader is asked for its test data with `training=False`.
"""

import sys
from typing import TYPE_CHECKING

from utils import cli
from utils.exit_codes import exit_with
from utils.run_folder import find_checkpoint

if TYPE_CHECKING:
    from data_loader import BaseDataLoader
    from trainer import BaseTrainer
    from utils.config import Config


def build(config: "Config", devices: str | None = None) -> "BaseTrainer":
    """A trainer that can evaluate; its data loader is that of the test data."""
    from trainer.engine import setup

    device = setup.device(config, devices)
    config.run.init_from = None
    options = config.run.trainer
    options.compile = False  # one pass does not repay it
    options.limit_batches = None  # all of the data, whatever the training was limited to
    options.accumulate, options.exact_ranks = 1, False  # they are for training, on its number of processes
    data_loader = test_data(config)
    setup.loaders(config, device, data_loader)
    config.facts = data_loader.facts | config.facts  # those of the training data count
    return config.build(
        "trainer",
        model=setup.model(config, device, data_loader),
        criterion=config.build("loss"),
        metrics=config.build("metrics"),
        optimizer=None,
        config=config,
        device=device,
        data_loader=data_loader,
        callbacks=config.build("callbacks"),
    )


def test_data(config: "Config") -> "BaseDataLoader":
    from trainer.engine import setup
    from utils.errors import UsageError

    spec = config.run.data_loader
    if not config.accepts("data_loader", spec, "training"):
        raise UsageError(
            f"data_loader: {spec.type} has no argument 'training', but test.py gives training=False; add "
            f"`training: bool = True` to it, and use the test data where it is False"
        )
    return setup.all_in_order(config, "data_loader", spec, config.facts)


def main(argv: list[str] | None = None) -> int:
    args = cli.parse("Test a run, or one of its checkpoints, on its test data.", {}, argv, training=False)
    path = find_checkpoint(args.resume or "")

    from trainer.engine import setup, test_report  # torch from here on
    from utils.process import launch

    config, saved = test_report.load(path, args.overrides)
    if (count := launch.needed(config.run.n_gpu, args.devices)) > 1:
        del saved  # each process loads it for itself
        return launch.start(count, [__file__, *(sys.argv[1:] if argv is None else argv)])
    with setup.processes(timeout=config.run.trainer.timeout):
        test_report.report(build(config, args.devices), saved, path)
    return 0


if __name__ == "__main__":
    exit_with(main)
