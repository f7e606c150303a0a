"""The command line of sweep.py, and the sweep that it means: a new one, or one to continue. All is checked here."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from utils import config as configs
from utils.cli import DEVICES, KEYS, check_keys, files_and_keys, parser_for
from utils.config import Config, ConfigError, differences
from utils.config.config import _import_torch as import_torch
from utils.config.files import Dumper
from utils.errors import UsageError
from utils.files import write_atomic
from utils.sweep.folder import Sweep, new_folder, newest
from utils.sweep.points import Point, check_all, overrides_of, product, several
from utils.sweep.result import normal
from utils.sweep.space import Space
from utils.sweep.table import repeats

SPACE = "space.yaml"  # in the sweep's folder
EPILOG = f"""
{KEYS}
Several values of a key are separate runs: FIRST..LAST, or A,B,C.

examples:
  sweep.py -c config/digits.yaml seed=1..5                        five runs: mean and standard deviation
  sweep.py -c FILE optimizer.args.lr=1e-3,3e-3 seed=1..3          all combinations
  sweep.py -c FILE -s config/sweep/mnist.yaml --trials 40        a search with Optuna
  sweep.py -r saved/digits/SWEEP                                  continue after Ctrl-C, or show the table
  sweep.py -r saved/digits/SWEEP seed=1..10                       five more runs
"""


@dataclass
class Plan:
    """A sweep whose trials can be run. search: the space and the number of trials, of a search."""

    sweep: Sweep
    config: Config
    search: tuple[Space, int] | None


def parse(options: dict[str, str], argv: list[str] | None = None) -> argparse.Namespace:
    """options: short options and the config keys they set."""
    parser = parser_for("Run one config many times: seeds, folds, grids, searches.", EPILOG)
    add = parser.add_argument
    add("-c", "--config", nargs="+", action="extend", default=[], metavar="FILE", dest="words", help="config files")
    add("-r", "--resume", metavar="SWEEP", help="continue a sweep: its folder, or auto (the newest of that name)")
    add("-s", "--space", type=Path, metavar="FILE", help="the space of a search; needs Optuna (extra sweep)")
    add("--trials", type=int, metavar="N", help="runs of a search, in all")
    add("--jobs", type=int, metavar="N", help="runs at a time (default: one on each GPU; without GPUs one)")
    add("-d", "--device", metavar="0,1", dest="devices", help=DEVICES.replace(", one process for each", ""))
    add("--storage", metavar="URL", help="a database for a search on several machines: postgresql://USER@HOST/NAME")
    add("--sweep-id", metavar="ID", help="name of the sweep's folder (default: the current time)")
    add("--retry", action="store_true", help="run failed trials again")
    add("--table", action="store_true", help="print the table and run nothing")
    add("--json", action="store_true", help="print the table as JSON")
    for option, key in options.items():
        add(option, metavar="X", dest="short", action="append", default=[], type=(key + "={}").format,
            help=f"short for {key}=X")  # fmt: skip
    add("overrides", nargs="*", metavar="KEY=VALUE", help="set a key of the config, to one value or to several")
    args = parser.parse_intermixed_args(argv)
    args.files, keys = files_and_keys(args.words)
    args.overrides = [*args.short, *keys, *args.overrides]
    check_keys(parser, args.overrides, "seed=1..5")
    for name in ("trials", "jobs"):
        if (value := getattr(args, name)) is not None and value < 1:
            parser.error(f"--{name} {value}: expected 1 or more")
    if not args.files and args.resume in (None, "auto"):
        parser.error("no config given; try: sweep.py -c config/digits.yaml seed=1..5")
    return args


def plan(args: argparse.Namespace) -> Plan:
    """The sweep of a command line, made or found; raises UsageError for all that is wrong before anything runs."""
    single, keys = several(args.overrides)
    found = Path(args.resume) if args.resume not in (None, "auto") else None
    config = None
    if args.files:
        config = configs.load(args.files, single)
        if args.resume == "auto":
            found = newest(config.run.trainer.save_dir, config.run.name, args.sweep_id)
    if found is not None:
        return _continued(Sweep.open(found), config, single, keys, args)
    assert config is not None
    check = checker(args.files, single)
    if args.space is not None:
        return _new_search(config, check, keys, args)
    for name in ("trials", "storage"):
        if getattr(args, name) is not None:
            raise UsageError(f"--{name} is for a search; give its space too: -s FILE")
    if not keys:
        raise UsageError("every run would be the same; give a key several values, such as seed=1..5, or a space: -s")
    check_all(product(keys), check)
    folder = new_folder(config.run.trainer.save_dir, config.run.name, args.sweep_id)
    sweep = Sweep.create(folder, {"objectives": objectives(check, config, [])}, config.to_yaml())
    sweep.add_points(keys)
    return Plan(sweep, config, None)


def checker(files: Sequence[Any], single: Sequence[str]) -> Callable[[Point], None]:
    """What raises ConfigError for a point that the config does not allow."""

    def check(point: Point) -> None:
        config = configs.load(files, [*single, *overrides_of(point)])
        import_torch()
        import torch

        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # no thread may be left when processes are forked
        try:
            config.check()
        finally:
            torch.set_num_threads(threads)

    return check


def objectives(check: Callable[[Point], None], config: Config, given: Sequence[str], place: str = "") -> list[str]:
    """Those that are given, or `trainer.monitor`, or else the loss. Raises ConfigError where a run never has one."""
    monitor = config.run.trainer.monitor
    for objective in given:
        if objective == "off":
            raise ConfigError([f"{place}: got off, expected min NAME or max NAME"])
        try:
            check({"trainer.monitor": objective})
        except ConfigError as e:
            start = f"command line: trainer.monitor={objective}"
            raise ConfigError([line.replace(start, place) for line in e.problems]) from None
    if given or monitor != "off":
        return [normal(objective) for objective in given or [monitor]]
    for objective in ("min val_loss", "min loss"):
        try:
            check({"trainer.monitor": objective})
            return [objective]
        except ConfigError:
            continue
    raise UsageError("the runs cannot be compared by a loss; give trainer.monitor, such as max val_accuracy")


def _new_search(config: Config, check: Callable[[Point], None], keys: Any, args: argparse.Namespace) -> Plan:
    from utils.sweep import study

    if keys:
        hint = f"put them into {args.space}"
        if all(repeats(key) for key in keys):
            hint = f"search with one value, then repeat the best: sweep.py -c SWEEP/best.yaml {next(iter(keys))}=..."
        raise UsageError(f"{', '.join(keys)} has several values, and -s gives a space; {hint}")
    space = Space.read(args.space)
    study.require()
    if args.storage is not None:
        study.check_database(args.storage)
    study.pruner(space)
    space.check(check)
    found = objectives(check, config, space.objectives, space.tree.place(("objective",)))
    trials = _trials(space, args)
    spec = {"objectives": found, "trials": trials, "in_database": args.storage is not None}
    folder = new_folder(config.run.trainer.save_dir, config.run.name, args.sweep_id)
    sweep = Sweep.create(folder, spec, config.to_yaml())
    text = yaml.dump(space.tree.data, Dumper=Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None)
    write_atomic(sweep.folder / SPACE, text.encode())
    return Plan(sweep, config, (space, trials))


def _trials(space: Space, args: argparse.Namespace, known: int | None = None) -> int:
    trials = args.trials or known or space.trials or (space.grid_size() if space.sampler == "grid" else None)
    if trials is None:
        raise UsageError(f"{space.tree.place(())}: how many trials? give --trials N, or trials: N in that file")
    return trials


def _continued(
    sweep: Sweep, config: Config | None, single: Sequence[str], keys: dict[str, list[Any]], args: argparse.Namespace
) -> Plan:
    base = configs.load([sweep.base])
    config = config or configs.load([sweep.base], single)
    if changed := differences(base.to_dict(), config.to_dict()):
        raise UsageError(
            f"{sweep} has another config, and its runs would not be comparable: {'; '.join(changed)}; leave that out, "
            f"or start a new sweep without -r"
        )
    check = checker([sweep.base], ())
    if not (sweep.folder / SPACE).is_file():
        if args.space is not None or args.trials is not None:
            raise UsageError(f"{sweep} is not a search; start a new sweep without -r")
        check_all(product(keys), check)
        sweep.add_points(keys)
        return Plan(sweep, base, None)
    if keys:
        raise UsageError(f"{sweep} is a search; {', '.join(keys)} cannot be added to it")
    if bool(sweep.spec["in_database"]) != (args.storage is not None) and not args.table:
        where = "in a database; give --storage URL again" if sweep.spec["in_database"] else "here; leave out --storage"
        raise UsageError(f"{sweep}: the study of this search is {where}")
    space = Space.read(sweep.folder / SPACE)
    if args.space is not None and Space.read(args.space).tree.data != space.tree.data:
        raise UsageError(f"{sweep} searches another space than {args.space}; leave out -s, or start a new sweep")
    check({})
    trials = _trials(space, args, sweep.spec.get("trials"))
    if trials != sweep.spec.get("trials"):
        with sweep.locked():
            sweep.spec["trials"] = trials
            sweep.save()
    return Plan(sweep, base, (space, trials))
