"""Find a learning rate, or the largest batch that fits: python find.py lr -c CONFIG

Runs some steps of a config in one process, prints a recommendation, and saves what it measured as a table (.csv) and,
if matplotlib is installed, as a plot (.png). It trains nothing that is kept.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils import cli
from utils.errors import UsageError
from utils.exit_codes import exit_with

if TYPE_CHECKING:
    from trainer import BaseTrainer
    from utils.config import Config

EXAMPLES = """
KEY=VALUE sets any key of the config

examples:
  find.py lr -c config/digits.yaml                    a learning rate
  find.py lr -c config/digits.yaml --low 1e-5 --high 1
  find.py batch_size -c config/digits.yaml -d 0       the largest batch for that GPU"""
ON_A_CPU = 1024  # the largest batch that is tried there


def find_lr(trainer: "BaseTrainer", low: float, high: float, steps: int, out: Path) -> str:
    """The recommendation for a learning rate."""
    from trainer.engine.commands import range_tests

    found = range_tests.learning_rates(trainer, low, high, steps)
    _save(found, out, "learning rate", ["loss", "smoothed"])
    lr = range_tests.steepest(found)
    if lr is None:
        return f"no recommendation: the loss never falls between {low:g} and {high:g}; give another --low and --high"
    lowest = min(found, key=lambda rate: rate.smoothed)
    end = f"from {found[-1].lr:.2g} on it diverges" if len(found) < steps else f"up to {high:g} it does not diverge"
    return f"--lr {lr:.2g}: there the loss falls fastest; it is lowest at {lowest.lr:.2g}, and {end}"


def find_batch_size(trainer: "BaseTrainer", most: int, out: Path) -> str:
    """The recommendation for a batch size."""
    from trainer.engine.commands import range_tests

    found, limit = range_tests.batch_sizes(trainer, most)
    if not found:
        raise UsageError("not even one sample fits into memory; give a smaller model or smaller inputs")
    found.sort()
    on_gpu = trainer.device.type == "cuda"
    _save(found, out, "batch size", ["samples_per_s"], *([["gigabytes"]] if on_gpu else []))
    for size in found:
        memory = f"  {size.gigabytes:6.2f} GB" if on_gpu else ""
        print(f"  {size.batch_size:>7,}  {size.samples_per_s:>10,.0f} samples/s{memory}")
    best = max(size.samples_per_s for size in found)
    enough = next(size.batch_size for size in found if size.samples_per_s >= 0.9 * best)
    largest = found[-1].batch_size
    fits = f"the largest batch that fits is {largest:,}" if limit else f"{largest:,}, the largest that was tried, fits"
    return (
        f"{fits}; from {enough:,} on, larger ones are no more than 10% faster. For a larger --bs, "
        f"trainer.accumulate=N cuts it into N parts. Leave some room where samples differ in size"
    )


def build(config: "Config", devices: str | None, steps: int) -> "BaseTrainer":
    """The trainer of a config for some steps without a schedule, in one process."""
    import train

    options = config.run.trainer
    config.run.lr_scheduler = None
    options.epochs, options.max_steps, options.tensorboard, options.verbosity = None, steps, False, 0
    options.accumulate, options.exact_ranks, options.compile, options.monitor = 1, False, False, "off"
    options.early_stop = None
    trainer = train.build(config, None, devices)
    for callback in trainer.callbacks:
        if hasattr(callback, "before_training"):  # it may freeze layers
            callback.before_training(trainer)
    return trainer


def _save(found: Sequence[Any], out: Path, label: str, *panels: Sequence[str]) -> None:
    """Write all columns as a table, and a plot with a panel for each group of columns over the first column."""
    columns = found[0]._fields if found else ()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with open(out.with_suffix(".csv"), "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([columns, *found])
    except OSError as e:
        raise UsageError(f"--out {out}: {e.strerror}; give another place") from e
    print(f"saved {out.with_suffix('.csv')}")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("for a plot of it, install matplotlib: make extra NAME=plots")
        return
    figure = Figure(layout="constrained")
    for i, panel in enumerate(panels):
        axes = figure.add_subplot(len(panels), 1, i + 1, xscale="log", xlabel=label)
        for column in panel:
            axes.plot([row[0] for row in found], [getattr(row, column) for row in found], label=column)
        axes.legend()
    figure.savefig(out.with_suffix(".png"))
    print(f"saved {out.with_suffix('.png')}")


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser_for("Find a learning rate, or the largest batch that fits.", EXAMPLES)
    add = parser.add_argument
    add("what", choices=("lr", "batch_size"))
    add("-c", "--config", nargs="+", required=True, metavar="FILE", help="config files, as in train.py")
    add("-d", "--device", metavar="0", help="the GPU to use, by number; or cpu")
    add("--out", type=Path, metavar="PATH", help="where the table and the plot go, without .csv (default: "
        "saved/NAME/find_lr)")  # fmt: skip
    add("--low", type=float, default=1e-7, help="lr: the lowest rate (default: %(default)s)")
    add("--high", type=float, default=1.0, help="lr: the highest rate (default: %(default)s)")
    add("--steps", type=int, default=100, help="lr: steps from low to high (default: %(default)s)")
    add("--most", type=int, help="batch_size: the largest to try (default: all training samples; on a CPU 1024)")
    add("overrides", nargs="*", metavar="KEY=VALUE", help="set a key of the config")
    args = parser.parse_intermixed_args(argv)
    if not 0 < args.low < args.high or args.steps < 10:
        parser.error(f"got --low {args.low:g} --high {args.high:g} --steps {args.steps}; give 0 < low < high, 10 steps")
    files, keys = cli.files_and_keys(args.config)
    cli.check_keys(parser, args.overrides)

    from utils import config as configs

    config = configs.load(files, [*keys, *args.overrides])
    config.run.n_gpu = min(1, 1 if config.run.n_gpu == "auto" else config.run.n_gpu)
    config.check()  # imports torch

    from trainer.engine import setup

    out = args.out or Path(config.run.trainer.save_dir, config.run.name, f"find_{args.what}")
    with setup.processes(1):
        trainer = build(config, args.device, args.steps)
        if args.what == "lr":
            print(find_lr(trainer, args.low, args.high, args.steps, out))
        else:
            most = len(trainer.data_loader.samples)
            most = args.most or (min(most, ON_A_CPU) if trainer.device.type == "cpu" else most)
            print(find_batch_size(trainer, most, out))
    return 0


if __name__ == "__main__":
    exit_with(main)
