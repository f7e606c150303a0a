"""Each model of the gallery in each format of export.py: the largest difference from the model, and samples/s.

    python -m benchmarks.export [MODEL ...] [--formats onnx torch_export aoti]

Each model is trained for two steps on a few samples that the script makes, at the size of its config or its defaults,
then exported and compared with itself on such samples. Samples/s are of batches of the run's size on one thread, and
their ratio to the model's own in PyTorch (eager), in turns; medians over rounds. safetensors holds weights alone.
"""

import argparse
import contextlib
import io
import os
import statistics
import time
import wave
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

import train
from trainer.export import exported, job
from trainer.export.module import leaves
from trainer.inference.members import Member, Source
from utils.errors import Stopped, UsageError
from utils.run_folder import Run

SECONDS = 0.3  # of one measurement


def gallery(folder: Path) -> dict[str, dict[str, Any]]:
    """The arch, data_loader and loss of each model of the gallery; writes the samples into the folder."""
    digits = {"type": "DigitsDataLoader", "args": {"batch_size": 64, "validation_split": 300}}
    mnist = {"type": "MnistDataLoader", "args": {"data_dir": str(folder), "batch_size": 64, "validation_split": 64}}
    penguins = {
        "file": str(Path(train.__file__).parent / "data_loader/penguins/penguins.csv"),
        "target": "species",
        "batch_size": 32,
        "test_split": 0.2,
        "validation_split": 0.2,
    }
    reviews = {"file": f"{folder}/reviews.csv", "test_file": f"{folder}/reviews.csv", "batch_size": 64}
    book = {"file": f"{folder}/book.txt", "block_size": 64, "batch_size": 12, "validation_split": 0.1}
    sounds = {"data_dir": f"{folder}/sounds", "sample_rate": 8000, "n_mels": 40, "batch_size": 32}
    shapes = {"data_dir": f"{folder}/shapes", "batch_size": 16, "size": 48, "classes": 4}
    write_mnist(folder)
    write_texts(folder)
    write_sounds(folder / "sounds")
    write_shapes(folder / "shapes")
    signals = write_signals(folder)
    return {
        "MnistModel": {"arch": "MnistModel", "data_loader": mnist, "loss": "nll_loss"},
        "MLP": {"arch": {"type": "MLP", "args": {"in_features": 64}}, "data_loader": digits},
        "ConvNet": {"arch": {"type": "ConvNet", "args": {"widths": [32, 64]}}, "data_loader": digits},
        "SmallResNet": {
            "arch": {"type": "SmallResNet", "args": {"in_channels": 1, "width": 16}},
            "data_loader": digits,
        },
        "UNet": {
            "arch": {"type": "UNet", "args": {"widths": [16, 32, 64]}},
            "data_loader": {"type": "SegmentationDataLoader", "args": shapes},
            "loss": {"type": "cross_entropy", "args": {"ignore_index": 255}},
        },
        "TabularMLP": {"arch": "TabularMLP", "data_loader": {"type": "TableDataLoader", "args": penguins}},
        "BagOfTokens": {
            "arch": "BagOfTokens",
            "data_loader": {"type": "TextTableDataLoader", "args": reviews | {"tokens": "ngrams"}},
        },
        "TextCNN": {"arch": "TextCNN", "data_loader": {"type": "TextTableDataLoader", "args": reviews}},
        "TextTransformer": {
            "arch": "TextTransformer",
            "data_loader": {"type": "TextTableDataLoader", "args": reviews},
        },
        "ViT": {"arch": "ViT", "data_loader": mnist},
        "GPT": {"arch": "GPT", "data_loader": {"type": "LanguageModelDataLoader", "args": book}},
        "AudioCNN": {
            "arch": {"type": "AudioCNN", "args": {"n_mels": 40, "widths": [16, 32, 64]}},
            "data_loader": {"type": "AudioDataLoader", "args": sounds},
        },
        "CNN1d": {"arch": "CNN1d", "data_loader": {"type": "ArrayDataLoader", "args": signals}},
        "GAN": {
            "arch": {"type": "GAN", "args": {"width": 16}},
            "data_loader": mnist,
            "loss": "BCEWithLogitsLoss",
            "optimizer": {"generator": "Adam", "discriminator": "Adam"},
            "trainer": {"type": "GANTrainer"},
        },
    }


def trained(name: str, parts: dict[str, Any], folder: Path) -> Path:
    """The folder of a run of two steps."""
    options = {"max_steps": 2, "tensorboard": False, "verbosity": 0, "save_dir": str(folder)}
    config = {"name": name, "n_gpu": 0, "loss": "cross_entropy", "optimizer": "AdamW"} | parts
    config["trainer"] = options | parts.get("trainer", {})
    train.run(config, Run(folder / name))
    return folder / name


def write_mnist(folder: Path) -> None:
    numbers = np.random.default_rng(0)
    for part, n in (("train", 256), ("t10k", 192)):
        for kind, values in (
            ("images-idx3", numbers.integers(0, 256, (n, 28, 28))),
            ("labels-idx1", np.arange(n) % 10),
        ):
            header = bytes([0, 0, 8, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
            path = folder / f"MNIST/raw/{part}-{kind}-ubyte"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(header + values.astype(np.uint8).tobytes())


def write_texts(folder: Path) -> None:
    numbers, letters = np.random.default_rng(0), np.array(list("abcdefghij klmnop"))
    rows = [f"{i % 2},{''.join(numbers.choice(letters, numbers.integers(5, 60)))}x" for i in range(200)]
    (folder / "reviews.csv").write_text("\n".join(["label,text", *rows]) + "\n")
    (folder / "book.txt").write_text("".join(numbers.choice(letters, 8000)))


def write_sounds(folder: Path) -> None:
    numbers = np.random.default_rng(0)
    for part, n in (("train", 48), ("test", 40)):
        for i in range(n):
            path = folder / part / "ab"[i % 2] / f"{i}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            samples = numbers.normal(scale=3000, size=numbers.integers(2000, 5000)).astype("<i2")
            with wave.open(str(path), "wb") as file:
                file.setparams((1, 2, 8000, len(samples), "NONE", ""))
                file.writeframes(samples.tobytes())


def write_signals(folder: Path) -> dict[str, Any]:
    """The arguments of their loader."""
    numbers = np.random.default_rng(0)
    parts = {"": 64, "test_": 48}
    for part, n in parts.items():
        np.save(folder / f"{part}signals.npy", numbers.normal(size=(n, 1, 100)).astype(np.float32))
        np.save(folder / f"{part}classes.npy", np.arange(n) % 2)
    files = {f"{part}inputs": f"{folder}/{part}signals.npy" for part in parts}
    return files | {f"{part}targets": f"{folder}/{part}classes.npy" for part in parts} | {"batch_size": 16}


def write_shapes(folder: Path) -> None:
    from data_loader.engine.images import draw_shapes

    draw_shapes.write(folder, {"train": 48, "val": 16, "test": 48})


def rate(call: Callable[[], Any], size: int) -> float:
    """Samples a second."""
    begin, calls = time.perf_counter(), 0
    while (seconds := time.perf_counter() - begin) < SECONDS:
        call()
        calls += 1
    return calls * size / seconds


def measure(run: Path, chosen: job.Format, rounds: int) -> str:
    """Export, and what is to say about it."""
    source = Source(str(run), [])
    try:
        report = job.export(source, job.Options(format=chosen))
    except (Stopped, UsageError) as e:
        return f"not exported: {str(e).splitlines()[0]}"
    if chosen == "safetensors":
        return f"difference {report.difference:.1e}  {report.size / 1e6:6.2f} MB"
    source = Source(str(run), [])
    member = Member(source, job.real_samples(source, ()), job.CPU)
    inputs, (_, model) = job.read(member)[0], exported.source(report.path, [])
    size = len(leaves(inputs)[0])
    eager: list[float] = []
    ratios: list[float] = []
    with member.eval_mode():
        for _ in range(rounds):
            eager.append(rate(lambda: member.trainer.predict_step(inputs), size))
            ratios.append(rate(lambda: model(inputs), size) / eager[-1])
    ratio = statistics.median(ratios)
    return (
        f"difference {report.difference:.1e}  {report.size / 1e6:6.2f} MB  "
        f"{statistics.median(eager) * ratio:10,.0f} samples/s  {ratio:.2f} of eager"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--formats", nargs="+", default=["onnx", "torch_export", "safetensors"])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    with TemporaryDirectory() as folder:
        for name, parts in gallery(Path(folder)).items():
            if args.models and name not in args.models:
                continue
            with contextlib.redirect_stdout(io.StringIO()):
                run = trained(name, parts, Path(folder, "runs"))
            for chosen in args.formats:
                print(f"{name:<15}  {chosen:<12}  {measure(run, chosen, args.rounds)}", flush=True)


if __name__ == "__main__":
    main()
