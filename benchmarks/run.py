"""Runs the benchmarks one after the other and writes what they print to benchmarks/RESULTS.md, with bars met or missed.

    python -m benchmarks.run [NAME ...] [--data-dir data/]

Sections of benchmarks that do not run this time are kept, and the table covers all sections. If a benchmark fails, its
section says so, the others still run, and the exit code is 1.
"""

import argparse
import datetime
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

RESULTS = Path(__file__).with_name("RESULTS.md")
INTRODUCTION = """\
# What was measured

Written by `make bench` (`python -m benchmarks.run`): each command and what it printed. Ratios are medians over rounds
in which the sides took turns. The effects of faults are in [RESULTS-faults.md](RESULTS-faults.md).
"""
TWO_RANKS = ["-m", "torch.distributed.run", "--nproc-per-node", "2"]
TIMEOUT = 900  # seconds


class Figure(NamedTuple):
    what: str
    pattern: str  # of the line that the benchmark prints, with the number as its group
    bar: str = ""  # as `<= 0.85`


class Row(NamedTuple):
    figures: list[Figure]
    before: list[str] = []  # of the command line, in front of -m benchmarks.NAME
    mnist: bool = False  # does it take --data-dir?
    cuda: bool = False  # does it need a GPU?


ROWS: dict[str, Row] = {
    "step": Row(
        [
            Figure("a step of a tiny MLP, over a plain loop's time", r"^ours .* ([\d.]+) of plain", "<= 0.90"),
            Figure("the same features by hand, each in its fastest way", r"^tuned .* ([\d.]+) of plain"),
        ]
    ),
    "profile": Row([]),
    "mnist": Row(
        [
            Figure("an epoch of MNIST, over a loop's time by hand", r"^ours .* ([\d.]+) of the hand loop", "<= 0.60"),
            Figure("that loop by hand with our ways to be fast", r"^tuned .* ([\d.]+) of the hand loop"),
        ],
        mnist=True,
    ),
    "input": Row(
        [Figure("samples/s of MNIST, over torchvision's path", r"^ours, 0 workers .* ([\d.]+)$", ">= 150")], mnist=True
    ),
    "images": Row(
        [
            Figure("samples/s of JPEG files, over PIL and v1, 0 workers", r"^ours *, 0 workers .* ([\d.]+)$", ">= 1.8"),
            Figure("the same, 2 workers over the usual at 0", r"^ours *, 2 workers .* ([\d.]+)$", ">= 2.2"),
            Figure("the same with cache, 0 workers over the usual at 0", r"^cached *, 0 workers .* ([\d.]+)$", ">= 5"),
            Figure(
                "the same with cache, 2 workers over the usual at 2",
                r"^the same with 2.*\n.*\ncached *, 2 workers .* ([\d.]+)$",
                ">= 5",
            ),
            Figure(
                "samples/s of 12-megapixel files, over PIL and v1, 0 workers",
                r"^\d+ files of 12 mega.*\n.*\nours *, 0 workers .* ([\d.]+)$",
                ">= 3.5",
            ),
        ]
    ),
    "text": Row(
        [
            Figure("samples/s of training on nsmc, buckets over padding", r"^buckets .*samples/s +([\d.]+)", ">= 2"),
        ]
    ),
    "large_data": Row(
        [
            Figure("samples/s of JPEG in tar files, over plain files", r"^tar, 0 workers .* ([\d.]+)$", ">= 0.95"),
            Figure("the same of webdataset", r"^webdataset, 0 workers .* ([\d.]+)$"),
            Figure("MB that a mapped table grows by in an epoch", r"^mapped table .*grew by +([\d.]+) MB", "<= 8"),
            Figure("MB that a mapped corpus grows by", r"^corpus .*grew by +([\d.]+) MB", "<= 8"),
            Figure("MB that Parquet files, converted, grow by", r"^parquet .*grew by +([\d.]+) MB", "<= 8"),
        ]
    ),
    "shuffle": Row(
        [
            Figure("first index of 10^8, ms", r"^ours +first of +100,000,000 +([\d.]+) ms", "< 1"),
            Figure("memory for it, MB", r"^ours +first of +100,000,000 .* ([\d.]+) MB", "< 1"),
            Figure("first index of 10^9, ms", r"^ours +first of +1,000,000,000 +([\d.]+) ms", "< 1"),
        ]
    ),
    "save": Row([Figure("loop blocked by a save, over a copy's time", r"^ours .* ([\d.]+) of copy", "<= 1.5")]),
    "start": Row(
        [
            Figure("start to the first step, over a bare script's time", r"^ours .* ([\d.]+) of bare", "<= 1.05"),
            Figure("--help, s", r"^--help +([\d.]+) s", "< 0.4"),
            Figure("a config error, s", r"^a wrong key +([\d.]+) s", "< 0.4"),
        ]
    ),
    "ddp": Row(
        [
            Figure("samples/s of 2 processes, over a bare DDP loop's", r"^ours .* ([\d.]+) of bare", ">= 0.97"),
            Figure("the same of Lightning", r"^lightning .* ([\d.]+) of bare"),
        ],
        before=TWO_RANKS,
    ),
    "memory": Row(
        [Figure("memory per process of fsdp, over ddp's, many blocks", r"^deep:.*\n.*\n +fsdp .* ([\d.]+) of ddp")]
    ),
    "clock": Row([Figure("a step with the breakdown of time, over one without", r"^with .* ([\d.]+)$", "<= 1.01")]),
    "compile": Row(
        [
            Figure("a step of the MLP with compile, over without", r"^MLP +compile .* ([\d.]+)$"),
            Figure("a step of the ConvNet with compile, over without", r"^ConvNet +compile .* ([\d.]+)$"),
        ]
    ),
    "gpu": Row([], cuda=True),
}


def command(name: str) -> list[str]:
    """The command line after `python`."""
    return [*ROWS[name].before, "-m", f"benchmarks.{name}"]


def run(name: str, data_dir: str | None) -> tuple[str, bool]:
    """The section of a benchmark, and whether it succeeded."""
    given = ["--data-dir", data_dir] if data_dir and ROWS[name].mnist else []
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, *command(name), *given],
        cwd=RESULTS.parent.parent,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    failed = ""
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        failed = "\n".join([f"\nFAILED with exit code {done.returncode}", *done.stderr.strip().splitlines()[-1:]])
    took = f"{datetime.date.today()}, {machine()}{', the real MNIST' * bool(given)}; {time.monotonic() - began:.0f} s."
    about = RESULTS.with_name(f"{name}.py").read_text(encoding="utf-8").splitlines()[0].strip('"')
    return f"{about}\n\n{took}\n\n```\n{done.stdout.rstrip()}{failed}\n```\n", not done.returncode


def machine() -> str:
    import torch

    names = [line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    cpu = names[0] if names else platform.processor() or platform.machine()
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{os.cpu_count()} cores of {cpu}{gpu}, Python {platform.python_version()}, torch {torch.__version__}"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def sections(text: str) -> dict[str, str]:
    """{the command in a heading: the text below it}."""
    parts = re.split(r"^## `python (.*)`\n", text, flags=re.MULTILINE)
    return {heading: body.strip() + "\n" for heading, body in zip(parts[1::2], parts[2::2], strict=True)}


def table(found: dict[str, str]) -> str:
    """The measured values and their bars, for each benchmark that has a section."""
    lines = ["| | measured | bar | |", "|---|---|---|---|"]
    for name, row in ROWS.items():
        section = next((body for heading, body in found.items() if _is_of(heading, name)), "")
        for what, pattern, bar in row.figures if section else ():
            match = re.search(pattern, section, re.MULTILINE)
            verdict = "" if not bar else "met" if match and holds(float(match[1]), bar) else "**missed**"
            lines.append(f"| `{name}`: {what} | {match[1] if match else 'nothing'} | {bar} | {verdict} |")
    return "\n".join(lines) + "\n"


def _is_of(heading: str, name: str) -> bool:
    return f"benchmarks.{name}" in heading.split()


def holds(value: float, bar: str) -> bool:
    """Whether the value meets a bar such as `<= 0.85`."""
    sign, limit = bar.split()
    return {"<=": value <= float(limit), "<": value < float(limit), ">=": value >= float(limit)}[sign]


def page(found: dict[str, str]) -> str:
    order = [heading for name in ROWS for heading in found if _is_of(heading, name)]
    rest = [heading for heading in found if heading not in order]
    return "\n".join([INTRODUCTION, table(found), *(f"## `python {h}`\n\n{found[h]}" for h in order + rest)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ROWS)} (default: all)")
    parser.add_argument("--data-dir", help="where MNIST is; without it random pixels are used")
    args = parser.parse_args()
    if wrong := set(args.names) - set(ROWS):
        parser.error(f"no benchmark {', '.join(sorted(wrong))}; there are {', '.join(ROWS)}")
    failures = []
    for name in args.names or ROWS:
        if not RESULTS.with_name(f"{name}.py").exists():
            print(f"{name}: there is no such script")
            continue
        if ROWS[name].cuda and not _has_cuda():
            print(f"{name}: not run, there is no CUDA GPU")
            continue
        print(f"{name}: python {' '.join(command(name))}", flush=True)
        try:
            section, succeeded = run(name, args.data_dir)
        except subprocess.TimeoutExpired:
            section, succeeded = f"FAILED: not done in {TIMEOUT} s\n", False
        print(section, flush=True)
        failures += [] if succeeded else [name]
        found = sections(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
        found = {heading: body for heading, body in found.items() if not _is_of(heading, name)}
        found[" ".join(command(name))] = section
        RESULTS.write_text(page(found), encoding="utf-8")  # after each, so that an interrupt loses none
    sys.exit(f"failed: {', '.join(failures)}" if failures else 0)


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


if __name__ == "__main__":
    main()
