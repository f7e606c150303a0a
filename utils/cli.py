"""The command line of train.py and test.py: files, KEY=VALUE, and a few switches; torch is not needed to read it."""

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path

KEYS = "KEY=VALUE sets any key of the config, dots between its parts: trainer.epochs=3 optimizer.args.lr=1e-3"
TRAIN = f"""
{KEYS}

examples:
  train.py -c config/digits.yaml                     train; the run's folder is in saved/
  train.py -c config/digits.yaml trainer.epochs=3    the same with one key changed
  train.py -c config/digits.yaml my.yaml             my.yaml overrides keys of digits.yaml
  train.py -r saved/digits/RUN                       continue a run where it stopped
  train.py -c config/digits.yaml -r auto             continue the newest run of that name, or start one
"""
TEST = f"""
{KEYS}

examples:
  test.py -r saved/digits/RUN                        the best checkpoint of a run on the test data
  test.py -r saved/digits/RUN data_loader.args.batch_size=1000
"""


@dataclass
class Arguments:
    config_files: list[str] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)  # KEY=VALUE, short options among them
    resume: str | None = None
    devices: str | None = None
    run_id: str | None = None
    check: bool = False
    print_config: bool = False
    replay: int | None = None


def parse(description: str, options: dict[str, str], argv: list[str] | None = None, training: bool = True) -> Arguments:
    """Read the command line; `options` maps short options to config keys ({"--lr": "optimizer.args.lr"}). Exits with 2
    and a sentence if it is wrong. `training=False`: what test.py takes."""
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
        help="continue this run (its folder, a checkpoint in it, or auto)" if training else
        "the run to test (its folder: the best checkpoint; or a checkpoint)")  # fmt: skip
    add("-d", "--device", metavar="0,1", dest="devices", help="the GPUs to use, by number, a process for each; or cpu")
    if training:
        add("--run-id", metavar="ID", help="name of the run's folder (default: the time)")
        add("--check", action="store_true", help="prove that the config works, in about a minute, and leave nothing")
        add("--print-config", action="store_true", help="print the config as it will be used, and stop")
        add("--replay", type=int, metavar="STEP", help="with -r: run this one step of the run again, and stop")
    for option, key in options.items():
        add(option, metavar="X", dest="short", action="append", default=[],
            type=(key + "={}").format, help=f"short for {key}=X")  # fmt: skip
    add("overrides", nargs="*", metavar="KEY=VALUE", help="set a key of the config")
    given = vars(parser.parse_intermixed_args(argv))

    words = given.pop("config_files", [])
    files = [word for word in words if "=" not in word or Path(word).exists()]
    keys = [word for word in words if word not in files] + given.pop("overrides")
    for word in keys:
        if "=" not in word:
            file = "; a config file goes behind -c" if Path(word).suffix in (".yaml", ".yml", ".json") else ""
            parser.error(f"`{word}` is not KEY=VALUE, as in trainer.epochs=3{file}")
    arguments = Arguments(config_files=files, overrides=given.pop("short", []) + keys, **given)
    if training and not files and arguments.resume in (None, "auto"):
        parser.error(f"no config was given; try `{Path(sys.argv[0]).name} -c config/digits.yaml`")
    return arguments
