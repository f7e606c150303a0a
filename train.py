"""Train what a config describes: python train.py -c config/digits.yaml

This page is the whole run: the config names the parts, `build` makes them, and a Trainer runs them.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils import cli
from utils.exit_codes import exit_with, explained

if TYPE_CHECKING:  # not at run time: importing torch takes seconds, and --help and config errors need none of it
    from trainer import BaseTrainer
    from trainer.engine.result import Result
    from utils.config import Config
    from utils.run_folder import Run

# Short options: --lr 0.01 is optimizer.args.lr=0.01. Add yours.
OPTIONS = {"--lr": "optimizer.args.lr", "--bs": "data_loader.args.batch_size"}


def build(config: "Config", folder: "Run | None", devices: str | None = None) -> "BaseTrainer":
    """The trainer of a config, with all its parts; reads the data, writes nothing."""
    from logger.console import log
    from trainer.engine import setup
    from trainer.engine.optim.optimizers import build_optimizer
    from trainer.engine.optim.schedules import build_lr_scheduler

    device = setup.device(config, devices)

    data_loader = config.build("data_loader")
    valid_data_loader = setup.validation(config, data_loader)
    setup.loaders(config, device, data_loader, valid_data_loader)
    config.facts = data_loader.facts  # number of classes, vocabulary, ...: fills parameters of these names below

    model = setup.model(config, device, data_loader, folder)
    log.info(setup.summary(model))
    criterion = config.build("loss")
    metrics = config.build("metrics")

    optimizer = build_optimizer(config, model, criterion)
    lr_scheduler = build_lr_scheduler(config, optimizer, data_loader.steps_per_epoch)
    callbacks = config.build("callbacks")
    writers = config.build("logger")

    return config.build(
        "trainer",
        model=model,
        criterion=criterion,
        metrics=metrics,
        optimizer=optimizer,
        config=config,
        device=device,
        data_loader=data_loader,
        valid_data_loader=valid_data_loader,
        lr_scheduler=lr_scheduler,
        callbacks=callbacks,
        writers=writers,
        run=folder,
    )


def run(
    config: "Config | Mapping[str, Any] | str | Path", folder: "Run | None" = None, devices: str | None = None
) -> "Result":
    """Train a config, or continue the run in `folder`. Never exits the process; raises UsageError and Stopped.

    config: a file, a mapping, or what `utils.config.load` returns. folder: default: a new one. devices: as after `-d`.
    """
    from utils import run_folder
    from utils.config import Config, load

    config = config if isinstance(config, Config) else load([config])
    config.check()  # imports torch
    folder = folder or run_folder.new_run(config.run.trainer.save_dir, config.run.name, None)

    from trainer.checkpoint import resume
    from trainer.engine import processes, setup
    from trainer.engine.result import Result
    from utils.errors import Interrupted
    from utils.process import launch

    if (count := launch.needed(config.run.n_gpu, devices)) > 1:
        return processes.start_run(count, __file__, config, folder, devices)
    with explained(), setup.processes(config.run.trainer.verbosity, config.run.trainer.timeout), config.located():
        trainer = build(config, folder, devices)
        try:
            if resume.start(trainer):
                trainer.train()
            return Result.of(trainer)
        except Interrupted as e:
            return Result.of(trainer, interrupted=e.exit_code)
        finally:
            folder.close()


def main(argv: list[str] | None = None) -> int:
    args = cli.parse("Train what a config describes.", OPTIONS, argv)
    config, folder = cli.read(args)
    if args.print_config:
        print(config.to_yaml(), end="")
        return 0
    config.check()  # imports torch

    from trainer.engine import processes, setup
    from trainer.engine.commands import check, replay
    from utils.process import launch

    if (count := launch.needed(config.run.n_gpu, args.devices)) > 1:
        return processes.start(count, __file__, sys.argv[1:] if argv is None else argv).exit_code
    if not args.check and args.replay is None:
        return run(config, folder, args.devices).exit_code
    with setup.processes(config.run.trainer.verbosity, config.run.trainer.timeout), config.located():
        if args.replay is not None:
            replay.replay(build(config, folder, args.devices), args.replay)
        else:
            check.check(config, build, args.devices)
    return 0


if __name__ == "__main__":
    exit_with(main)
