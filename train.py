"""Train what a config describes: python train.py -c config/digits.yaml

This page is the whole run: the config names the parts, `build` makes them, and a Trainer runs them.
"""

import sys

from utils import cli
from utils import run as runs
from utils.config import Config

# Short options: --lr 0.01 is optimizer.args.lr=0.01. Add yours.
OPTIONS = {"--lr": "optimizer.args.lr", "--bs": "data_loader.args.batch_size"}


def build(config: Config, run: runs.Run, devices: str | None = None):
    """The trainer of a config, with all its parts; reads the data, writes nothing."""
    # Not at the top: importing torch takes seconds, and --help and a wrong config need none of it
    from logger.logger import log
    from trainer import optim, setup

    device = setup.device(config, devices)

    data_loader = config.build("data_loader")
    valid_data_loader = data_loader.split_validation()
    setup.loaders(config, device, data_loader, valid_data_loader)

    model = setup.model(config, device, run)
    log.info(setup.summary(model))
    criterion = config.build("loss")
    metrics = config.build("metrics")

    optimizer = optim.build_optimizer(config, model)
    lr_scheduler = optim.build_lr_scheduler(config, optimizer, data_loader.steps_per_epoch)
    callbacks = config.build("callbacks")

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
        run=run,
    )


def main(argv: list[str] | None = None) -> None:
    args = cli.parse("Train what a config describes.", OPTIONS, argv)
    config, run = runs.read(args)
    if args.print_config:
        print(config.to_yaml(), end="")
        return
    config.check()  # imports torch

    from trainer import replay, resume, setup
    from utils import launch

    if not launch.joined() and (count := len(launch.devices(config.run.n_gpu, args.devices)[0])) > 1:
        launch.start(count, [__file__, *(sys.argv[1:] if argv is None else argv)])
        return
    with setup.processes(config.run.trainer.verbosity, config.run.trainer.timeout):
        if args.check:
            resume.check(config, build, args.devices)
        elif args.replay is not None:
            replay.replay(build(config, run, args.devices), args.replay)
        else:
            trainer = build(config, run, args.devices)
            if resume.start(trainer):
                trainer.train()


if __name__ == "__main__":
    runs.exit_with(main)
