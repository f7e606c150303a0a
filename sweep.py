"""Run one config many times: python sweep.py -c config/digits.yaml seed=1..5

Each trial is an ordinary run in the folder of the sweep, and a process of its own. After any kill, the same command
with -r SWEEP continues: an interrupted trial resumes from its own checkpoint, none is lost, and none runs twice.
"""

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import train
from utils.errors import Interrupted, Stopped
from utils.exit_codes import exit_with
from utils.sweep import command, report
from utils.sweep.folder import unusable
from utils.sweep.process import run_trial
from utils.sweep.workers import Source, Workers

if TYPE_CHECKING:
    import argparse

    from utils.config import Config
    from utils.sweep.table import Table


def trial(folder: Path, number: int, devices: str | None, threads: int, parent: int | None) -> None:
    """The process of one trial."""
    run_trial(train.run, folder, number, devices, threads, parent)


def slots(config: "Config", jobs: int | None, devices: str | None) -> tuple[list[str | None], int, str]:
    """For each trial at a time, its devices, as after -d; the CPU threads of each; and how their processes start."""
    import torch

    from utils.process import launch

    threads = torch.get_num_threads()
    found = launch.devices("auto" if config.run.n_gpu else 0, devices)[0]
    if found[0].type == "cpu":
        count = jobs or 1
        # A forked process has imported torch already; on other systems a fork is unsafe
        start = "fork" if sys.platform == "linux" else "spawn"
        return [devices] * count, max(1, threads // count), start
    each = len(found) if config.run.n_gpu == "auto" else min(config.run.n_gpu or 1, len(found))
    names = [
        ",".join(str(device.index) for device in found[i : i + each]) for i in range(0, len(found) - each + 1, each)
    ]
    start = "forkserver" if sys.platform == "linux" else "spawn"  # this process may have used CUDA, so not "fork"
    return [names[i % len(names)] for i in range(jobs or len(names))], threads, start


def out_of_fold(plan: command.Plan, table: "Table", devices: str | None) -> dict[str, Any] | None:
    """The values over the held-out samples of all folds, of the best keys; None for a sweep without folds."""
    count = plan.config.run.data_loader.args.get("folds") or 0
    runs = report.folds(plan.sweep, table) if count else {}
    if not runs:
        return None
    from trainer.engine import setup
    from trainer.inference import out_of_fold

    if (found := out_of_fold.known(plan.sweep.folder, runs)) is not None:
        return found
    with setup.processes(verbosity=0):
        return out_of_fold.write(plan.sweep.folder, runs, count, setup.device(plan.config, devices))


def results(plan: command.Plan, source: Source, args: "argparse.Namespace") -> int:
    """Write and print the results of the sweep; returns the exit code."""
    try:
        table = report.write(plan.sweep, source.elsewhere())
    except OSError as e:
        raise unusable(plan.sweep, e.strerror or str(e)) from e
    folds, drawn = out_of_fold(plan, table, args.devices), report.plots(plan.sweep, table)
    failed = [t for t in table.trials if t.state == "failed"]
    print(report.as_json(plan.sweep, table, folds) if args.json else report.as_text(plan.sweep, table, folds, drawn))
    if failed:
        raise Stopped(
            f"{len(failed)} of {len(table.trials)} trials failed; the first, trial {failed[0].number}: "
            f"{failed[0].error}. To run them again: python sweep.py -r {plan.sweep} --retry"
        )
    return 0


def main(argv: list[str] | None = None) -> int:
    args = command.parse(train.OPTIONS, argv)
    plan = command.plan(args)  # imports torch, once the files are read

    def say(line: str) -> None:
        print(line, file=sys.stderr if args.json else sys.stdout, flush=True)

    source = Source()
    if plan.search is not None and (args.storage or not args.table):
        from utils.sweep.study import Search

        source = Search(plan.sweep, *plan.search, args.storage)
    if args.retry:
        plan.sweep.retry()
    if not args.table:
        devices, of_each, start = slots(plan.config, args.jobs, args.devices)
        say(f"{plan.sweep}: {len(devices)} at a time; what they print is in {plan.sweep.folder / 'trials'}")
        try:
            Workers(plan.sweep, source, trial, devices, of_each, start, say).run()
        except (Interrupted, Stopped):
            with contextlib.suppress(OSError):  # the disk may be full
                report.write(plan.sweep, [])
            raise
    return results(plan, source, args)


if __name__ == "__main__":
    exit_with(main)
