"""The cache of decoded images: the same draws and nearly the same pixels, made once, whoever is killed meanwhile."""

import pickle
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_loader.engine.images import cache
from data_loader.engine.images.cache import CachedImage, build
from data_loader.engine.images.decode import ImageFile, crop, pixels
from data_loader.transforms import RandomResizedCrop
from data_loader.vision import ImageFolderDataLoader
from tests.data_loader.batches import first, whole
from utils.errors import DataError, SampleError

ROOT = Path(__file__).resolve().parents[4]
SIZES = [(64, 48), (48, 64), (32, 32), (30, 20), (97, 61)]  # short sides of 48, 48, 32, 20, 61


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Class folders of ten smooth images, of which those of 32 and 20 are not made smaller for a cache of 32."""
    numbers = np.random.default_rng(0)
    for i in range(10):
        small = Image.fromarray(numbers.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        path = tmp_path / "data/train" / "ab"[i % 2] / f"{i}.{'jpg' if i % 3 else 'png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        small.resize(SIZES[i % 5], Image.Resampling.BICUBIC).save(path)
    return tmp_path / "data"


def loader(photos: Path, **options: object) -> ImageFolderDataLoader:
    return ImageFolderDataLoader(str(photos), 5, size=28, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_crops_as_without(photos: Path, workers: int) -> None:
    """Images that fit are bit-equal; of the others, the boxes are the same ones, on fewer pixels."""
    plain, cached = loader(photos), loader(photos, cache=True, num_workers=workers)
    total = 0
    for step in range(4):
        (one, labels), (two, same) = first(plain, step), first(cached, step)
        assert torch.equal(labels, same)
        assert (one - two).abs().mean() < 0.15  # in standard deviations of ImageNet; other crops differ by 0.6
        kept = [i for i, index in enumerate(plain.indices(step)) if min(SIZES[cached_size(plain, index)]) <= 32]
        assert torch.equal(one[kept], two[kept])
        total += len(kept)
    assert total == 8  # 4 of 10 in each of two epochs


def cached_size(plain: ImageFolderDataLoader, index: int) -> int:
    return int(Path(plain.dataset.samples[index][0]).stem) % 5


def test_evaluation_is_bit_equal(photos: Path) -> None:
    """The stored size is that of CenterCrop's resizing."""
    plain = loader(photos, training=False, test_folder="train")
    cached = loader(photos, training=False, test_folder="train", cache=True)
    assert torch.equal(whole(plain)[0], whole(cached)[0])


def test_boxes_are_of_the_file_and_draws_those_of_the_file(tmp_path: Path) -> None:
    big = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)).resize((420, 300))
    small = np.asarray(big.resize((84, 60), Image.Resampling.BOX))
    image = CachedImage((420, 300), small)
    assert image.size == (420, 300)
    assert torch.equal(image.crop((100, 50, 300, 200), 30, 40), crop(Image.fromarray(small), (20, 10, 60, 40), 30, 40))
    assert image.crop((419, 299, 420, 300), 4, 4).shape == (3, 4, 4)  # a pixel of the file is none of the cache
    transform, states = RandomResizedCrop(16), []
    for one in (CachedImage(big.size, np.asarray(big)), image):
        random.seed(7)
        transform(one)
        states.append(random.getstate())
    assert states[0] == states[1]


def test_made_once_and_again_when_a_file_changes(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        loader(photos, cache=True)
        assert "caching 10 images" in caplog.text
        caplog.clear()
        loader(photos, cache=True)
        assert "caching" not in caplog.text
        path = photos / "train/a/0.png"
        Image.new("RGB", (32, 32), (255, 0, 0)).save(path)
        changed = loader(photos, cache=True)
        assert "caching 10 images" in caplog.text
    place = Path(changed.dataset.cache.folder)  # type: ignore[attr-defined]
    assert place.parent == photos / ".image_cache"  # hidden: no class of its own
    assert changed.facts["class_names"] == ["a", "b"]
    assert pixels(changed.dataset.cache.image(0).rgb())[:, 0, 0].tolist() == [255, 0, 0]  # type: ignore[attr-defined]
    assert cache.key_of(["x"], 32) != cache.key_of(["x"], 33)


def test_a_bad_file_is_named_when_it_is_needed(photos: Path) -> None:
    broken = photos / "train/b/1.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    cached = loader(photos, cache=True)
    with pytest.raises(SampleError, match=f"{broken}"):
        list(cached)
    cached.configure(skip_bad_samples=1)
    assert len(whole(cached)[0]) == 9


def test_a_disk_that_is_too_small_is_refused(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(photos)._replace(free=10_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(
        DataError, match=r"The cache of 10 images needs about .* GB, but .*image_cache has 1e-05 GB free"
    ):
        loader(photos, cache=True)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk without space")
def test_a_disk_that_fills_up_leaves_nothing(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_write", lambda paths, short, path: Path("/dev/full").write_bytes(b"1"))
    with pytest.raises(DataError, match=r"cannot be written to .*image_cache: No space left on device; set "):
        loader(photos, cache=True)
    assert not [path for path in (photos / ".image_cache").iterdir() if path.is_dir()]


def test_a_folder_of_its_own(photos: Path, tmp_path: Path) -> None:
    loader(photos, cache=str(tmp_path / "fast/disk"), cache_size=24)
    assert not (photos / ".image_cache").exists()
    (place,) = (path for path in (tmp_path / "fast/disk").iterdir() if path.is_dir())
    index = np.load(place / "index.npy")
    assert sorted(index[:, 1:3].min(axis=1).tolist()) == [20, 20, *[24] * 8]
    assert (place / "pixels.bin").stat().st_size == int((index[:, 1] * index[:, 2] * 3).sum())


BUILD = """
import sys
from pathlib import Path
from data_loader.engine.images import cache
from data_loader.engine.images.cache import build
write = cache._write
def slowly(paths, short, path):
    print("writing", flush=True)
    path.write_bytes(b"half")
    import time; time.sleep(float(sys.argv[3]))
    return write(paths, short, path)
cache._write = slowly
build(sys.argv[4:], 32, Path(sys.argv[1]))
print("done")
"""


@pytest.mark.slow
def test_a_kill_leaves_nothing_that_is_used_and_another_process_waits(photos: Path, tmp_path: Path) -> None:
    paths = sorted(map(str, photos.rglob("*.*g")))
    folder = tmp_path / "cache"

    def start(seconds: float) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", BUILD, str(folder), "32", str(seconds), *paths]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)

    killed = start(100)
    assert killed.stdout is not None
    assert killed.stdout.readline() == "writing\n"
    waiting = start(0.1)
    time.sleep(0.1)
    killed.kill()
    killed.communicate()
    assert waiting.communicate(timeout=60)[0] == "writing\ndone\n"  # the lock of the dead is free, its half is not used
    assert start(0).communicate(timeout=60)[0] == "done\n"
    assert [path.suffix for path in folder.iterdir() if path.is_dir()] == [""]
    made = build(paths, 32, folder)
    with ImageFile(paths[2]) as image:
        stored = made.image(2)
        assert stored is not None
        assert stored.size == image.size


def test_workers_open_the_file_and_are_not_sent_it(photos: Path, tmp_path: Path) -> None:
    cached = build(sorted(map(str, photos.rglob("*.*g"))), 32, tmp_path / "cache")
    assert len(pickle.dumps(cached)) < 500
    again = pickle.loads(pickle.dumps(cached))
    assert torch.equal(pixels(again.image(3).rgb()), pixels(cached.image(3).rgb()))  # type: ignore[union-attr]


def of_rank(data_dir: str) -> tuple[int, float]:
    """How many caches this rank made, and the sum of what it then reads."""
    from trainer.engine import setup

    made, make = [], cache._make
    cache._make = lambda *args: (made.append(1), make(*args))[1]  # type: ignore[assignment, func-returns-value]
    with setup.processes(0):
        dataset = ImageFolderDataLoader(data_dir, 5, size=28, cache=True).eval_dataset
        return len(made), float(sum(dataset[i][0].sum() for i in range(10)))


@pytest.mark.slow
def test_one_rank_makes_it_and_all_use_it(photos: Path) -> None:
    from tests.trainer.parallel.ranks import on_ranks

    (one, first_sum), (two, second_sum) = on_ranks(2, of_rank, str(photos))
    assert one + two == 1
    plain = loader(photos).eval_dataset
    assert first_sum == second_sum == float(sum(plain[i][0].sum() for i in range(10)))
