"""The command line of the scripts: config files, KEY=VALUE, and a few switches. Imports no torch."""

import argparse
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from utils.errors import UsageError

if TYPE_CHECKING:
    from utils.config import Config
    from utils.run_folder import Run

KEYS = "KEY=VALUE sets any key of the config; dots separate nested keys: trainer.epochs=3 optimizer.args.lr=1e-3"
TRAIN = f"""
{KEYS}

examples:
  train.py -c config/digits.yaml                     train; saved/ holds the run's folder
  train.py -c config/digits.yaml trainer.epochs=3    change one key
  train.py -c config/digits.yaml my.yaml             keys in my.yaml override those in digits.yaml
  train.py -r saved/digits/RUN                       continue a run from where it stopped
  train.py -c config/digits.yaml -r auto             continue the newest run of that name, or start a new one
"""
TEST = f"""
{KEYS}

examples:
  test.py -r saved/digits/RUN                        test the best checkpoint of a run
  test.py -r saved/digits/RUN data_loader.args.batch_size=1000
"""


@dataclass
class Arguments:
    config_files: list[str] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)  # KEY=VALUE, including those of short options
    resume: str | None = None
    devices: str | None = None
    run_id: str | None = None
    check: bool = False
    print_config: bool = False
    replay: int | None = None


def parse(description: str, options: dict[str, str], argv: list[str] | None = None, training: bool = True) -> Arguments:
    """Parse the command line; exits with 2 and an error message if it is wrong.

    options: short options and the config keys they set, {"--lr": "optimizer.args.lr"}.
    training: False accepts the options of test.py.
    """
    parser = argparse.ArgumentParser(
        description=description,
        epilog=TRAIN if training else TEST,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    if training:
        add("-c", "--config", nargs="+", action="extend", default=[], metavar="FILE", dest="config_files",
            help="config files (.yaml, .json); later ones override earlier ones")  # fmt: skip
    add("-r", "--resume", metavar="RUN", dest="resume", required=not training,
        help="continue a run: its folder, one of its checkpoints, or auto" if training else
        "the run to test: its folder (uses the best checkpoint) or a checkpoint")  # fmt: skip
    add(
        "-d", "--device", metavar="0,1", dest="devices", help="the GPUs to use, by number, one process for each; or cpu"
    )
    if training:
        add("--run-id", metavar="ID", help="name of the run's folder (default: the current time)")
        add(
            "--check",
            action="store_true",
            help="check that the config trains and resumes, in about a minute; keeps no files",
        )
        add("--print-config", action="store_true", help="print the resolved config and exit")
        add("--replay", type=int, metavar="STEP", help="with -r: run this one step of the run again and exit")
    for option, key in options.items():
        add(option, metavar="X", dest="short", action="append", default=[],
            type=(key + "={}").format, help=f"short for {key}=X")  # fmt: skip
    add("overrides", nargs="*", metavar="KEY=VALUE", help="set a key of the config")
    given = vars(parser.parse_intermixed_args(argv))

    words = given.pop("config_files", [])
    files = [word for word in words if "=" not in word or os.path.exists(word)]  # Path raises for a long name
    keys = [word for word in words if word not in files] + given.pop("overrides")
    for word in keys:
        if "=" not in word:
            file = "; to use a config file, write -c FILE" if Path(word).suffix in (".yaml", ".yml", ".json") else ""
            parser.error(f"'{word}' is not KEY=VALUE, for example trainer.epochs=3{file}")
    arguments = Arguments(config_files=files, overrides=given.pop("short", []) + keys, **given)
    if training and not files and arguments.resume in (None, "auto"):
        parser.error(f"no config given; try: {Path(sys.argv[0]).name} -c config/digits.yaml")
    return arguments


def read(args: Arguments) -> "tuple[Config, Run]":
    """The config and the run of a command line; the run is new unless `-r` finds one."""
    from utils import config as configs  # not at the top: --help needs no pydantic
    from utils.run_folder import Run, find_run, new_run, newest_run

    found: Run | None = None
    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0  # by torchrun after a failure: continue
    if args.resume and args.resume != "auto":
        found = find_run(args.resume)
        if restarted:
            found = Run(found.folder)
    elif args.replay is not None:
        raise UsageError("--replay needs the run that the step belongs to: -r RUN")
    files: list[str | Path] = list(args.config_files)
    if found and not files:
        files.append(found.folder / "config.yaml")
    config = configs.load(files, args.overrides)
    save_dir, name = config.run.trainer.save_dir, config.run.name
    if args.resume == "auto" or (restarted and found is None):
        found = newest_run(save_dir, name, args.run_id)
    return config, found or new_run(save_dir, name, args.run_id)
