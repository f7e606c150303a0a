"""Writes the digits that come with the project in other formats: data for config/arrays.yaml and the like.

    python -m data_loader.engine.files.write_digits npy data/digits_npy
    python -m data_loader.engine.files.write_digits tar data/digits_tar
    python -m data_loader.engine.files.write_digits parquet data/digits_parquet

The first 1,500 train, the last 297, by other writers, are for testing.
"""

import argparse
import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

DIGITS = Path(__file__).resolve().parents[2] / "digits/digits.npz"
PARTS = {"train": slice(None, 1500), "test": slice(1500, None)}
SHARD = 500  # samples of a tar file


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray((image.astype(np.float32) * 15.9375).astype(np.uint8)).save(buffer, "png")
    return buffer.getvalue()


def write_npy(folder: Path, part: str, images: np.ndarray, labels: np.ndarray) -> None:
    np.save(folder / f"{part}_images.npy", images)
    np.save(folder / f"{part}_labels.npy", labels)


def write_tar(folder: Path, part: str, images: np.ndarray, labels: np.ndarray) -> None:
    for start in range(0, len(images), SHARD):
        with tarfile.open(folder / f"{part}-{start // SHARD:02}.tar", "w") as tar:
            for i in range(start, min(start + SHARD, len(images))):
                for ending, data in (("png", png(images[i])), ("cls", str(labels[i]).encode())):
                    member = tarfile.TarInfo(f"{i:04}.{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


def write_parquet(folder: Path, part: str, images: np.ndarray, labels: np.ndarray) -> None:
    import datasets

    features = datasets.Features(
        {"image": datasets.Image(), "digit": datasets.ClassLabel(names=[str(digit) for digit in range(10)])}
    )
    pictures = [{"bytes": png(image), "path": None} for image in images]
    data = datasets.Dataset.from_dict({"image": pictures, "digit": labels.tolist()}, features=features)
    data.to_parquet(folder / f"{part}.parquet")


FORMATS = {"npy": write_npy, "tar": write_tar, "parquet": write_parquet}


def write(kind: str, folder: Path) -> None:
    """Images [N, 8, 8], values 0 ... 16, and labels [N], of train and test."""
    folder.mkdir(parents=True, exist_ok=True)
    with np.load(DIGITS) as digits:
        for part, chosen in PARTS.items():
            FORMATS[kind](folder, part, digits["images"][chosen], digits["labels"][chosen])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("format", choices=FORMATS)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    write(args.format, args.folder)
