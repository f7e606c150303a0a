"""Data larger than memory: samples/s of tar files against plain files and webdataset; memory over an epoch.

    python -m benchmarks.large_data

files: ImageFolderDataLoader. tar: TarDataLoader over the same JPEG files in 8 tar files, read at random. webdataset:
the package of this name over the same tar files, a shuffle buffer of 1,000, Pillow and torchvision's v1 transforms.
Training batches of 64 images of 224 px; nothing is computed with them. One thread per process, each row in a child
process, interleaved; medians over rounds, and ratios to the first row of the same round.

Memory: how many MB the loader and its first batches take, and by how many the process grows over a shuffled epoch; both
without the pages of files, which are the system's cache (RssAnon of /proc/self/status).
"""

import argparse
import io
import logging
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from benchmarks.images import BATCH, SIZE, make
from benchmarks.input import rate, take_turns
from benchmarks.mnist import in_child
from data_loader import BaseDataLoader
from data_loader.arrays import ArrayDataLoader
from data_loader.hugging_face import HuggingFaceDataLoader
from data_loader.tar_shards import TarDataLoader
from data_loader.text import LanguageModelDataLoader
from data_loader.transforms import RandomResizedCrop
from data_loader.vision import IMAGENET_MEAN, IMAGENET_STD, ImageFolderDataLoader
from trainer.engine.speed import backends

SHARDS = 8


# --- samples a second


def pack(folder: Path) -> None:
    """The files of folder/train, as tar files in it, in random order as WebDataset wants it."""
    paths = sorted((folder / "train").rglob("*.jpg"))
    order = np.random.default_rng(0).permutation(len(paths))
    for shard in range(SHARDS):
        with tarfile.open(folder / f"{shard:02}.tar", "w") as tar:
            for i in order[shard::SHARDS].tolist():
                for name, data in ((f"{i}.jpg", paths[i].read_bytes()), (f"{i}.cls", paths[i].parent.name.encode())):
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


def files(folder: str, workers: int, batches: int) -> float:
    backends.keep_memory()
    stream = ImageFolderDataLoader(folder, BATCH, num_workers=workers, size=SIZE).iter_steps(0)
    return rate((batch.data for batch in stream), batches)


def tar(folder: str, workers: int, batches: int) -> float:
    backends.keep_memory()
    crop = [RandomResizedCrop(SIZE)]
    loader = TarDataLoader(f"{folder}/*.tar", batch_size=BATCH, num_workers=workers, transforms=crop)
    return rate((batch.data for batch in loader.iter_steps(0)), batches)


def webdataset(folder: str, workers: int, batches: int) -> float:
    import webdataset as wds
    from torchvision import transforms

    steps = [transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    transform = transforms.Compose([*steps, transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)])
    urls = sorted(map(str, Path(folder).glob("*.tar")))
    data = wds.WebDataset(urls, shardshuffle=SHARDS).shuffle(1000).decode("pil").to_tuple("jpg", "cls")
    data = data.map_tuple(transform, int).batched(BATCH, partial=False)
    loader = torch.utils.data.DataLoader(data, batch_size=None, num_workers=workers)
    return rate((batch for _ in range(10**6) for batch in loader), batches)


# --- memory


def own_memory() -> float:
    """MB of this process that are no pages of files."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


def epoch(make: Callable[[str], BaseDataLoader], folder: str) -> tuple[float, float, float]:
    """MB that the loader takes with its first batches, MB that it grows by after them, and samples/s."""
    torch.set_num_threads(1)
    start = own_memory()
    loader = make(folder)
    stream: Iterator[Any] = loader.iter_steps(0)
    for _ in range(20):
        next(stream)
    before, most, began, samples = own_memory(), 0.0, time.perf_counter(), 0
    for step in range(20, loader.steps_per_epoch):
        samples += next(stream).size
        if step % 100 == 0:
            most = max(most, own_memory() - before)
    return before - start, most, samples / (time.perf_counter() - began)


def mapped_table(folder: str) -> BaseDataLoader:
    return ArrayDataLoader(f"{folder}/x.npy", f"{folder}/y.npy", 256, standardize=True)


def corpus(folder: str) -> BaseDataLoader:
    return LanguageModelDataLoader(f"{folder}/x.npy", 1024, 64, stride=1024, validation_split=0)


def parquet(folder: str) -> BaseDataLoader:
    names = [f"c{i}" for i in range(8)]
    return HuggingFaceDataLoader(f"{folder}/*.parquet", names, "kind", 256, cache_dir=folder)


def write(folder: Path, megabytes: int) -> None:
    """A table of numbers as .npy, whose bytes are the corpus too, and another one as Parquet files."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers, rows = np.random.default_rng(0), megabytes * 1000
    table = np.lib.format.open_memmap(folder / "x.npy", "w+", np.float32, (rows, 250))
    for start in range(0, rows, 10_000):
        table[start : start + 10_000] = numbers.normal(size=(min(10_000, rows - start), 250))
    table.flush()
    np.save(folder / "y.npy", np.arange(rows) % 10)
    for part in range(4):
        columns = {f"c{i}": numbers.normal(size=rows).astype(np.float32) for i in range(8)}
        pq.write_table(pa.table({**columns, "kind": np.arange(rows) % 10}), folder / f"{part}.parquet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--files", type=int, default=1024)
    parser.add_argument("--megabytes", type=int, default=500)
    args = parser.parse_args()
    logging.getLogger("groundwork").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        make(Path(folder), args.files)
        pack(Path(folder))
        print(f"{args.files} JPEG files of 256 px, also in {SHARDS} tar files; {args.rounds} rounds")
        rows = [(files, 0), (tar, 0), (webdataset, 0), (files, 2), (tar, 2), (webdataset, 2)]
        take_turns(rows, args.rounds, folder, args.files // BATCH)
    with TemporaryDirectory() as folder:
        write(Path(folder), args.megabytes)
        print("memory over an epoch")
        for make_loader, name in ((mapped_table, "x.npy"), (corpus, "x.npy"), (parquet, "*.parquet")):
            size = sum(path.stat().st_size for path in Path(folder).glob(name)) / 1e6
            takes, most, per_second = in_child(epoch, make_loader, folder)
            what = make_loader.__name__.replace("_", " ")
            memory = f"takes {takes:4.0f} MB   grew by {most:5.1f} MB"
            print(f"{what:12} of {size:4.0f} MB   {memory}   {per_second:9,.0f} samples/s")


if __name__ == "__main__":
    main()
