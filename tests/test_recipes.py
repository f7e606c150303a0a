"""The recipes of docs/data.md pass the config check, train and test on small data of the kind they describe; those of
docs/training.md train on digits."""

import csv
import importlib.util
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests import warm
from tests.conftest import ROOT
from utils import config as configs


def sections(page: str) -> dict[str, str]:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))


RECIPES = sections("data.md")
TRICKS = {title: body for title, body in sections("training.md").items() if "```yaml" in body}
OWN = "Your own Dataset"
ROOMS = ("config", "data_loader", "logger", "model", "trainer", "utils")
BASE: dict[str, Any] = {
    "name": "recipe",
    "arch": {"type": "ConvNet", "args": {"in_channels": 3, "widths": [4]}},
    "data_loader": "DigitsDataLoader",
    "loss": "cross_entropy",
    "metrics": ["accuracy"],
    "optimizer": "AdamW",
    "trainer": {"max_steps": 2, "valid_steps": 2, "limit_batches": 2},
}
NEEDS = {"Tables": "polars", "Text": "polars", "Speech": "soundfile", "Hugging Face data sets": "datasets"}


def recipe(title: str) -> dict[str, Any]:
    (text,) = re.findall(r"```yaml\n(.*?)```", (RECIPES | TRICKS)[title], re.DOTALL)
    given = yaml.safe_load(text)
    if title in TRICKS:
        digits = {"type": "DigitsDataLoader", "args": {"validation_split": 300}}
        given = {"arch": {"type": "ConvNet"}, "data_loader": digits} | given
    return BASE | given | {"trainer": BASE["trainer"] | given.get("trainer", {})}


@pytest.mark.parametrize("title", [title for title in RECIPES | TRICKS if title != OWN])
def test_a_recipe_is_a_valid_config(title: str) -> None:
    configs.load([recipe(title)]).check()


def test_a_wrong_key_in_a_recipe_is_found() -> None:
    wrong = recipe("Folders of images")
    wrong["data_loader"]["args"]["sise"] = 224
    with pytest.raises(configs.ConfigError, match="sise"):
        configs.load([wrong]).check()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/ as the recipes have it, small."""
    from PIL import Image

    root = tmp_path_factory.mktemp("recipes")
    data = root / "data"
    numbers = np.random.default_rng(0)

    def write(path: Path, size: tuple[int, ...] = (24, 32, 3)) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(numbers.integers(0, 256, size, dtype=np.uint8)).save(path)

    for i in range(80):
        species = ["crow", "robin"][i % 4 == 0]
        for part in ("birds/train", "birds/test", "birds/noisy"):
            write(data / part / species / f"{i}.jpg")
        write(data / f"birds/images/{i}.jpg")
    for part, n in (("train", 16), ("val", 4), ("test", 4)):
        for i in range(n):
            write(data / f"shapes/{part}/images/{i}.png", (48, 48, 3))
            path = data / f"shapes/{part}/masks/{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(numbers.integers(0, 4, (48, 48), dtype=np.uint8)).save(path)
    rows = [[f"{i}.jpg", ["crow", "robin"][i % 4 == 0], i // 4] for i in range(80)]
    table(data / "birds/train.csv", ["file", "species", "nest"], rows)
    table(data / "birds/test.csv", ["file", "species", "nest"], rows[:20])
    measured = [[i, ["Adelie", "Gentoo"][i % 2], i + i % 2 * 10, 2007 + i % 3] for i in range(80)]
    for name in ("train.csv", "test.csv"):
        table(data / name, ["id", "species", "mass", "year"], measured)
    reviews = [[i, ["bad film", "good film", "좋은 영화"][i % 3], int(i % 3 > 0)] for i in range(80)]
    for name in ("train.tsv", "test.tsv"):
        table(data / name, ["id", "document", "label"], reviews, "\t")
    for i in range(10):
        for part in ("train", "test"):
            (data / "cells" / part).mkdir(parents=True, exist_ok=True)
            image = numbers.normal(size=(3, 8, 8)).astype(np.float32)
            np.savez(data / f"cells/{part}/{i}.npz", image=image, label=i % 2)
    of_libraries(data)
    return root


def table(path: Path, header: list[str], rows: list[list[Any]], separator: str = ",") -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=separator).writerows([header, *rows])


def of_libraries(data: Path) -> None:
    """Files of NumPy, tar and Parquet."""
    import tarfile

    numbers = np.random.default_rng(0)
    x, y = numbers.normal(size=(80, 2)).astype(np.float32), numbers.integers(0, 2, 80)
    for part in ("", "_test"):
        np.save(data / f"x{part}.npy", x)
        np.save(data / f"y{part}.npy", y)
    images = sorted((data / "birds/images").glob("*.jpg"))
    for part in ("train-0", "train-1", "test-0"):
        with tarfile.open(data / f"{part}.tar", "w") as tar:
            for i, path in enumerate(images):
                tar.add(path, f"{i:04}.jpg")
                label = data / "label"
                label.write_text(str(i % 2))
                tar.add(label, f"{i:04}.cls")
    if importlib.util.find_spec("polars"):
        import polars

        for part in ("train", "test"):
            columns = {"x": x[:, 0].tolist(), "y": x[:, 1].tolist(), "label": y.tolist()}
            polars.DataFrame(columns).write_parquet(data / f"{part}.parquet")


def waves(folder: Path) -> None:
    import soundfile

    numbers = np.random.default_rng(0)
    for part in ("train", "test"):
        for i in range(80):
            path = folder / part / ["no", "yes"][i % 2] / f"{i}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, numbers.normal(scale=0.1, size=2000 + 100 * (i % 7)), 16000)


@pytest.mark.slow
@pytest.mark.parametrize("title", [title for title in RECIPES if title != OWN])
def test_a_recipe_trains_and_tests(title: str, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if title in NEEDS:
        pytest.importorskip(NEEDS[title], reason=f"needs {NEEDS[title]}, an extra of pyproject.toml")
    if title == "Speech" and not (data / "data/words").exists():
        waves(data / "data/words")
    import test
    import train

    monkeypatch.chdir(data)
    done = train.run(recipe(title))
    assert (done.step, done.exit_code) == (2, 0)
    assert np.isfinite(done.values["val_loss"])
    assert test.main(["-r", str(done.folder)]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("title", TRICKS)
def test_a_trick_trains(title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if title == "Metrics of torchmetrics":
        pytest.importorskip("torchmetrics", reason="needs torchmetrics: make extra NAME=metrics")
    if title == "Schedule-free":
        pytest.importorskip("schedulefree", reason="needs schedulefree: make extra NAME=schedulefree")
    if title == "Pretrained models":
        pytest.skip("needs the network, which has the weights; tests/utils/config/test_published.py tests it without")
    import train

    monkeypatch.chdir(tmp_path)
    done = train.run(recipe(title))
    assert (done.step, done.exit_code) == (2, 0)


@pytest.mark.slow
def test_a_dataset_class_of_ones_own_needs_no_loader(data: Path, tmp_path: Path) -> None:
    for path in [*ROOT.glob("*.py"), *(ROOT / room for room in ROOMS)]:
        copy = shutil.copytree if path.is_dir() else shutil.copy
        copy(path, tmp_path / path.name)
    shutil.copytree(data / "data", tmp_path / "data", dirs_exist_ok=True)
    (code,) = re.findall(r"```python\n(.*?)```", RECIPES[OWN], re.DOTALL)
    with (tmp_path / "data_loader/data_loaders.py").open("a", encoding="utf-8") as file:
        file.write(f"\n\n{code}")
    own = recipe(OWN)
    own["data_loader"]["args"] |= {"batch_size": 4}
    (tmp_path / "config/cells.yaml").write_text(yaml.safe_dump(own))
    for command in (["train.py", "-c", "config/cells.yaml", "--run-id", "one"], ["test.py", "-r", "saved/recipe/one"]):
        done = warm.run(*command, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"loss +\d", done.stdout)
