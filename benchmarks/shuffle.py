"""Time and memory until the first sample of a shuffled epoch is known: this order against torch.randperm.

    python -m benchmarks.shuffle [--randperm 100000000]

randperm of 10^8 needs 0.8 GB. The sampler of torch's DataLoader also turns it into a list, 4 GB more, which is left out
here. One thread, each row in a child process, interleaved; medians over rounds. Memory is the peak of what Python and
NumPy allocate (tracemalloc). randperm allocates elsewhere; its memory is the growth of its process.
"""

import argparse
import resource
import statistics
import time
import tracemalloc
from collections.abc import Callable

import numpy as np
import torch

from benchmarks.mnist import in_child
from data_loader.engine.sampler import BLOCK, Permutation, StepSampler

BATCH = 128


def first(n: int) -> int:
    """The first sample of an epoch: computes the whole first block, as training does."""
    return int(next(StepSampler(n, BATCH, True, seed=0).batches(0))[1][0])


def ours(n: int) -> tuple[float, float]:
    """Seconds, bytes"""
    first(1000)  # what is done once in a process
    start = time.perf_counter()
    first(n)
    taken = time.perf_counter() - start
    tracemalloc.start()
    first(n)
    return taken, tracemalloc.get_traced_memory()[1]


def randperm(n: int) -> tuple[float, float]:
    torch.randperm(1000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    torch.randperm(n)[0].item()
    taken = time.perf_counter() - start
    return taken, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def throughput(n: int) -> float:
    """Indices per second, in the blocks that training computes."""
    order, blocks = Permutation(n, 0), 100
    start = time.perf_counter()
    for i in range(blocks):
        order(np.arange(i * BLOCK, (i + 1) * BLOCK))
    return blocks * BLOCK / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--randperm", type=int, default=10**8, help="its length; 0: without it")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[tuple[Callable[[int], tuple[float, float]], int]] = [(ours, 10**8), (ours, 10**9)]
    rows += [(randperm, args.randperm)] if args.randperm else []
    results: list[list[tuple[float, float]]] = [[] for _ in rows]
    for _ in range(args.rounds):
        for (function, n), measured in zip(rows, results, strict=True):
            measured.append(in_child(function, n))
    for (function, n), measured in zip(rows, results, strict=True):
        seconds, size = (statistics.median(values) for values in zip(*measured, strict=True))
        print(f"{function.__name__:8} first of {n:13,}  {seconds * 1e3:9.2f} ms   {size / 1e6:7.2f} MB")
    for n in (10**8, 10**9):
        print(f"ours     of {n:13,}        {statistics.median(throughput(n) for _ in range(5)) / 1e6:9.1f} M indices/s")
    for n in (1, 2, 3, 5, 1000, 12_800, 60_000, 2**20):
        assert sorted(Permutation(n, n)(np.arange(n))) == list(range(n))
    print("each of 1, 2, 3, 5, 1,000, 12,800, 60,000 and 2^20 samples comes exactly once")


if __name__ == "__main__":
    main()
