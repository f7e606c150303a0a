"""Test a run on its test data: python test.py -r saved/digits/RUN

Everything is rebuilt from the config in the checkpoint; the loader is asked for its test data with `training=False`.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils import cli
from utils.errors import UsageError
from utils.exit_codes import exit_with
from utils.run_folder import find_checkpoint, is_exported

if TYPE_CHECKING:
    from data_loader import BaseDataLoader
    from trainer import BaseTrainer
    from utils.config import Config

EXAMPLES = """\
  test.py -r saved/digits/RUN                        test the best checkpoint of a run
  test.py -r saved/digits/RUN --report               by class, the confusion matrix, the worst samples
  test.py -r saved/digits/RUN data_loader.args.batch_size=1000
  test.py -r model.onnx                              test a file that export.py wrote"""


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-c", "--config", nargs="+", metavar="FILE", help="test an exported file with this config")
    parser.add_argument("--report", action="store_true", help="print a report by class, and the worst samples")
    parser.add_argument("--save", type=Path, metavar="FILE.npz", help="write the outputs of each sample, with its name")


def build(config: "Config", devices: str | None = None, model: Any = None) -> "BaseTrainer":
    """A trainer that can evaluate; its data loader is that of the test data. model: one that is ready."""
    from trainer.engine import setup
    from trainer.engine.evaluation.evaluator import evaluator, set_options

    device = setup.device(config, devices)
    set_options(config)
    data_loader = test_data(config)
    setup.loaders(config, device, data_loader)
    config.facts = data_loader.facts | config.facts  # those of the training data count
    return evaluator(
        config,
        device,
        data_loader,
        model=model or setup.model(config, device, data_loader),
        criterion=config.build("loss"),
        metrics=config.build("metrics"),
        callbacks=[] if model else config.build("callbacks"),
    )


def test_data(config: "Config") -> "BaseDataLoader":
    from trainer.engine import setup

    spec = config.run.data_loader
    if not config.accepts("data_loader", spec, "training"):
        raise UsageError(
            f"data_loader: {spec.type} has no argument 'training', but test.py gives training=False; add "
            f"`training: bool = True` to it, and use the test data where it is False"
        )
    return setup.all_in_order(config, "data_loader", spec, config.facts)


def main(argv: list[str] | None = None) -> int:
    args = cli.parse_run("Test a run, or one of its checkpoints, on its test data.", EXAMPLES, options, argv)
    if args.save is not None and args.save.suffix.lower() != ".npz":
        raise UsageError(f"--save {args.save}: give a name that ends in .npz")
    path = Path(args.run) if is_exported(args.run) else find_checkpoint(args.run)

    from trainer.engine import setup  # torch from here on
    from trainer.engine.evaluation import test_report
    from utils.process import launch

    if is_exported(args.run):
        from trainer.export import exported

        config, model = exported.source(path, args.overrides, args.config)
        saved = None
    else:
        if args.config:
            raise UsageError("-c: only for a file of export.py; a run has its own config, whose keys KEY=VALUE sets")
        (config, saved), model = test_report.load(path, args.overrides), None
    if (count := launch.needed(config.run.n_gpu, args.devices)) > 1:
        del saved  # each process loads it for itself
        return launch.start(count, [__file__, *(sys.argv[1:] if argv is None else argv)])
    with setup.processes(timeout=config.run.trainer.timeout):
        test_report.report(build(config, args.devices, model), saved, path, args.report, args.save)
    return 0


if __name__ == "__main__":
    exit_with(main)
