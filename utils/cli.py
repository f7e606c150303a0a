"""The command line of the scripts: config files, KEY=VALUE, and a few switches. Imports no torch."""

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from utils.errors import UsageError

if TYPE_CHECKING:
    from utils.config import Config
    from utils.run_folder import Run

DEVICES = "GPUs to use, by number, one process for each; or cpu"
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


def parse(description: str, options: dict[str, str], argv: list[str] | None = None) -> Arguments:
    """Parse the command line of train.py; exits with 2 and an error message if it is wrong.

    options: short options and the config keys they set, {"--lr": "optimizer.args.lr"}.
    """
    parser = parser_for(description, TRAIN)
    add = parser.add_argument
    add("-c", "--config", nargs="+", action="extend", default=[], metavar="FILE", dest="config_files",
        help="config files (.yaml, .json); later ones override earlier ones")  # fmt: skip
    add("-r", "--resume", metavar="RUN", help="continue a run: its folder, one of its checkpoints, or auto")
    add("-d", "--device", metavar="0,1", dest="devices", help=DEVICES)
    add("--run-id", metavar="ID", help="name of the run's folder (default: the current time)")
    add("--check", action="store_true", help="check in a minute that the config trains and resumes; leaves no files")
    add("--print-config", action="store_true", help="print the resolved config and exit")
    add("--replay", type=int, metavar="STEP", help="with -r: repeat this one step, report on it, and exit")
    for option, key in options.items():
        add(option, metavar="X", dest="short", action="append", default=[],
            type=(key + "={}").format, help=f"short for {key}=X")  # fmt: skip
    add("overrides", nargs="*", metavar="KEY=VALUE", help="set a key of the config")
    given = vars(parser.parse_intermixed_args(argv))

    files, keys = files_and_keys(given.pop("config_files", []))
    keys += given.pop("overrides")
    check_keys(parser, keys)
    arguments = Arguments(config_files=files, overrides=given.pop("short", []) + keys, **given)
    if not files and arguments.resume in (None, "auto"):
        parser.error(f"no config given; try: {Path(sys.argv[0]).name} -c config/digits.yaml")
    if arguments.run_id is not None and arguments.resume not in (None, "auto"):
        parser.error("--run-id names a new run, and -r RUN continues in its own folder; leave out one of them")
    return arguments


def parse_run(
    description: str,
    examples: str,
    add_options: Callable[[argparse.ArgumentParser], None],
    argv: list[str] | None = None,
    several: bool = False,
) -> argparse.Namespace:
    """Parse the command line of a script that uses a trained run: -r, -d, KEY=VALUE, and what `add_options` adds.

    several: -r takes several runs, `runs`; else it is `run`. KEY=VALUE after the values of -r, and a dotted one
    after those of --data, is found too, so that it may come last. Exits with 2 and an error message if it is wrong.
    """
    parser = parser_for(description, f"\n{KEYS}\n\nexamples:\n{examples}")
    parser.add_argument("-r", "--run", "--resume", nargs="+", required=True, dest="runs",
                        metavar="RUN" if several else ("RUN", "KEY=VALUE"),
                        help="a run's folder (its best checkpoint), a checkpoint, or a file that export.py wrote"
                        + ("; the predictions of several are averaged" if several else ""))  # fmt: skip
    parser.add_argument("-d", "--device", metavar="0,1", dest="devices", help=DEVICES)
    add_options(parser)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="set a key of the config")
    args = parser.parse_intermixed_args(argv)
    for name, pattern in (("runs", r"[a-z_]+(\.\w+)*="), ("data", r"[a-z_]+(\.\w+)+=")):  # data may be texts
        words = getattr(args, name, None) or []
        keys = [word for word in words if re.match(pattern, word) and not os.path.exists(word)]
        setattr(args, name, [word for word in words if word not in keys])
        args.overrides += keys
    check_keys(parser, args.overrides)
    if len(args.runs) != 1 and not several:
        parser.error(f"-r: give one run, got {len(args.runs)}: {', '.join(args.runs)}")
    args.run = args.runs[0]
    return args


class Parser(argparse.ArgumentParser):
    """argparse's, with advice where a key of the config was written like an option: --trainer.epochs=3"""

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            from utils.config.files import did_you_mean, nearest  # with pydantic: only for an error

            word = (unknown.split() or [""])[0].lstrip("-")
            name = word.partition("=")[0]
            options = {option.lstrip("-"): option for option in self._option_string_actions}
            near = nearest(name, options) if len(name) > 1 else None
            example = word if "." in word and "=" in word else "trainer.epochs=3"
            without = f"; a key of the config is written without dashes: {example}"
            message += did_you_mean(options[near]) if near else without
        super().error(message)


def parser_for(description: str, epilog: str = "") -> Parser:
    return Parser(
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def files_and_keys(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split the words after -c into config files and KEY=VALUE."""
    files = [word for word in words if "=" not in word or os.path.exists(word)]  # Path raises for a long name
    return files, [word for word in words if word not in files]


def check_keys(parser: argparse.ArgumentParser, keys: Sequence[str], example: str = "trainer.epochs=3") -> None:
    """Exit with 2 if one of these is not KEY=VALUE."""
    for word in keys:
        if "=" not in word:
            file = "; to use a config file, write -c FILE" if Path(word).suffix in (".yaml", ".yml", ".json") else ""
            parser.error(f"'{word}' is not KEY=VALUE, for example {example}{file}")


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
