"""Damages checkpoints in every way that a disk can, and loads them: none may be loaded wrong, each must be reported.

    python -m benchmarks.corrupt --flips 2000

Next to it: what `torch.load(weights_only=True)` alone makes of the same files. In the table, `reported` means that
loading failed with an error. Results: benchmarks/RESULTS-faults.md
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from tests.trainer.checkpoint.harness import House, config, unequal
from trainer.checkpoint import files as checkpoint

CUT = 64 * 1024
SPEC = config(arch__args__widths=[96, 192], trainer__monitor="min val_loss", trainer__epochs=1)


def flips(data: bytes, n: int, dice: random.Random) -> Iterator[bytes]:
    for _ in range(n):
        bit = dice.randrange(8 * len(data))
        yield data[: bit // 8] + bytes([data[bit // 8] ^ (1 << bit % 8)]) + data[bit // 8 + 1 :]


def outcome(load: Callable[[Path], Any], path: Path, right: Any, reported: type[Exception]) -> str:
    try:
        state = load(path)
    except reported:
        return "reported"
    except Exception as e:
        return f"not reported as what it is: {type(e).__name__}"
    return "loaded WRONG" if next(unequal(state, right), None) else "loaded right"


def torch_load(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def places(house: House) -> Iterator[tuple[str, str, Callable[[Path], object]]]:
    """(the kind of damage, the file, a function that does it in this folder)."""
    new, old = house.steps[:2]
    newest, older, best = checkpoint.name_of(new), checkpoint.name_of(old), "model_best.pth"

    def swap(folder: Path, a: str, b: str) -> None:
        (folder / a).rename(folder / "x")
        (folder / b).rename(folder / a)
        (folder / "x").rename(folder / b)

    def replace(path: Path, make: Callable[[Path], object]) -> None:
        path.unlink()
        make(path)

    yield "empty file", newest, lambda here: replace(here / newest, Path.touch)
    yield "a folder in its place", newest, lambda here: replace(here / newest, Path.mkdir)
    yield "a text file in its place", newest, lambda here: replace(here / newest, lambda p: p.write_text("hello"))
    yield "a link to nothing", newest, lambda here: replace(here / newest, lambda p: p.symlink_to("nowhere"))
    yield "swapped with an older one", newest, lambda here: swap(here, newest, older)
    yield "the best swapped with an older one", best, lambda here: swap(here, best, older)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0, help="of the dice that choose the bits")
    args = parser.parse_args()
    torch.set_num_threads(1)
    root = Path(tempfile.mkdtemp(prefix="corrupt-"))
    house = House(root / "run", SPEC)
    house.train()
    folder = house.run / "checkpoints"
    path = folder / checkpoint.name_of(house.steps[0])
    data, right = path.read_bytes(), checkpoint.load(path)
    os.unlink(path)  # the best may be a link to it
    print(f"a checkpoint of {len(data):,} bytes; dice {args.seed}")

    rows: dict[str, tuple[Counter[str], Counter[str]]] = {}
    cases = {
        f"{args.flips:,} bit flips": flips(data, args.flips, random.Random(args.seed)),
        f"cut off at each of {len(data) // CUT + 1} x 64 KiB": (data[:n] for n in range(0, len(data), CUT)),
    }
    for name, damaged in cases.items():
        rows[name] = Counter(), Counter()
        for content in damaged:
            path.write_bytes(content)
            rows[name][0][outcome(checkpoint.load, path, right, checkpoint.BrokenCheckpoint)] += 1
            rows[name][1][outcome(torch_load, path, right, Exception)] += 1
    path.write_bytes(data)

    for what, name, do in places(house):
        here = root / "damaged"
        shutil.copytree(folder, here)
        do(here)
        rows[f"{what} ({name})"] = tuple(  # type: ignore[assignment]
            Counter([outcome(load, here / name, checkpoint.load(folder / name), reported)])
            for load, reported in ((checkpoint.load, checkpoint.BrokenCheckpoint), (torch_load, Exception))
        )
        shutil.rmtree(here)

    wide = max(map(len, rows))
    print(f"{'':{wide}}  {'this template':<44}  torch.load")
    for name, (ours, theirs) in rows.items():
        texts = [", ".join(f"{count:,} {what}" for what, count in sorted(of.items())) for of in (ours, theirs)]
        print(f"{name:{wide}}  {texts[0]:<44}  {texts[1]}")
    wrong = sum(n for ours, _ in rows.values() for what, n in ours.items() if what not in ("reported", "loaded right"))
    print(f"loaded wrong or not reported: {wrong}")
    shutil.rmtree(root)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
