"""Samples a second of training on film reviews of very different lengths: batches by length against padding.

    python -m benchmarks.text [--file data/nsmc/train.tsv]

padded to batch: each text is padded to the longest of its batch. padded to all: to the longest of the data set.
buckets: to that of its batch, with bucket: 50. A TextCNN of characters, batches of 128, forward, backward and AdamW;
one thread. Each row in a child process, interleaved; medians over rounds, and ratios to the first row of that round.
Without the reviews of nsmc (Korean, 3 to 150 characters), texts of random characters and like lengths are used.
"""

import argparse
import logging
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.mnist import in_child
from data_loader.text import TextTableDataLoader
from model.text import TextCNN
from trainer.engine.speed import backends

BATCH = 128
PLACES = ("data/nsmc/train.tsv", "../shared/data/nsmc/train.tsv")


def trained(file: str, steps: int, bucket: int, longest: int | None) -> tuple[float, float]:
    """Samples/s, and how much of the batches is text and not padding."""
    backends.keep_memory()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    loader = TextTableDataLoader(file, "document", batch_size=BATCH, bucket=bucket, vocab_size=2000)
    model = TextCNN(loader.facts["vocab_size"], 2)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    stream, filled, places, samples = loader.iter_steps(0), 0, 0, 0
    for step in range(steps + 2):
        if step == 2:
            began, filled, places, samples = time.perf_counter(), 0, 0, 0
        tokens, labels = next(stream).data
        if longest:
            tokens = F.pad(tokens, (0, longest - tokens.shape[1]))
        filled, places, samples = filled + int((tokens > 0).sum()), places + tokens.numel(), samples + len(labels)
        F.cross_entropy(model(tokens), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    return samples / (time.perf_counter() - began), filled / places


def padded_to_all(file: str, steps: int) -> tuple[float, float]:
    lengths = TextTableDataLoader(file, "document", batch_size=BATCH).dataset.lengths
    return trained(file, steps, 0, int(lengths.max()))


def padded_to_batch(file: str, steps: int) -> tuple[float, float]:
    return trained(file, steps, 0, None)


def buckets(file: str, steps: int) -> tuple[float, float]:
    return trained(file, steps, 50, None)


def write(file: Path, n: int = 20_000) -> None:
    """Random Hangul, as long as the reviews of nsmc: half have up to 27 characters, a tenth more than 85."""
    numbers = np.random.default_rng(0)
    lengths = np.exp(numbers.normal(3.3, 0.8, n)).clip(3, 150).astype(int)
    rows = ["".join(map(chr, numbers.integers(0xAC00, 0xAC00 + 1500, length))) for length in lengths]
    text = "\n".join(["id\tdocument\tlabel", *(f"{i}\t{row}\t{i % 2}" for i, row in enumerate(rows))])
    file.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", help=f"default: {' or '.join(PLACES)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40)
    args = parser.parse_args()
    logging.getLogger("groundwork").setLevel(logging.WARNING)
    root = Path(__file__).resolve().parent.parent
    with TemporaryDirectory() as folder:
        there = [root / place for place in PLACES if (root / place).exists()]
        file = args.file or str(there[0] if there else Path(folder, "train.tsv"))
        if not Path(file).exists():
            write(Path(file))
        print("nsmc" if args.file or there else "random texts")
        rows: list[Callable[[str, int], tuple[float, float]]] = [padded_to_batch, padded_to_all, buckets]
        found: list[list[tuple[float, float]]] = [[] for _ in rows]
        for _ in range(args.rounds):
            for row, results in zip(rows, found, strict=True):
                results.append(in_child(row, file, args.steps))
        for row, results in zip(rows, found, strict=True):
            rate = statistics.median(result[0] for result in results)
            ratio = statistics.median(a[0] / b[0] for a, b in zip(results, found[0], strict=True))
            name = row.__name__.replace("_", " ")
            print(f"{name:16} {rate:7.0f} samples/s   {ratio:5.2f}   {results[0][1]:4.0%} of the batches is text")


if __name__ == "__main__":
    main()
