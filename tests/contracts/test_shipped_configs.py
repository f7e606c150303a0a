"""Every shipped config runs: two steps, a validation, a checkpoint, and a resume from it that is bit-equal."""

import zipfile
from pathlib import Path

import pytest

import train

FOLDER = Path(__file__).resolve().parents[2] / "config"
CONFIGS = sorted(f.name for f in FOLDER.iterdir() if f.suffix in (".yaml", ".json") and f.name != "schema.json")


@pytest.fixture
def spoken_digits_dir(tmp_path: Path) -> Path:
    """A sixth of the real clips."""
    archive = FOLDER.parents[1] / "shared/data/spoken_digits.zip"
    if not archive.exists():
        pytest.skip("needs ../shared/data/spoken_digits.zip (Free Spoken Digit Dataset)")
    with zipfile.ZipFile(archive) as file:
        file.extractall(tmp_path, [clip for clip in file.namelist() if "_theo_" in clip])
    return tmp_path


@pytest.mark.parametrize("name", CONFIGS)
def test_runs(
    name: str,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    argv = ["-c", str(FOLDER / name), "--check"]
    if "MnistDataLoader" in (FOLDER / name).read_text():
        argv.append(f"data_loader.args.data_dir={request.getfixturevalue('mnist_dir')}")
    texts = {
        "nsmc.yaml": {"file": "nsmc/train.tsv", "test_file": "nsmc/test.tsv"},
        "shakespeare.yaml": {"file": "tinyshakespeare/input.txt"},
    }
    for key, path in texts.get(name, {}).items():
        if not (FOLDER.parents[1] / "shared/data" / path).exists():
            pytest.skip(f"needs ../shared/data/{path}")
        argv.append(f"data_loader.args.{key}={FOLDER.parents[1] / 'shared/data' / path}")
    if name == "spoken_digits.yaml":
        argv.append(f"data_loader.args.data_dir={request.getfixturevalue('spoken_digits_dir')}")
    if name == "ants_bees.yaml":
        pytest.importorskip("timm", reason="needs timm: make extra NAME=timm")
        shared = FOLDER.parents[1] / "shared/data"
        if not (shared / "ants_bees").exists() or not (shared / "weights").exists():
            pytest.skip("needs ../shared/data/ants_bees and ../shared/data/weights")
        argv += [f"init_from={shared}/weights/tf_efficientnet_lite0.pth", "data_loader.args.test_folder=test"]
        argv += [f"data_loader.args.data_dir={shared}/ants_bees", "data_loader.args.cache=false"]
        argv += ["data_loader.args.size=64"]
    if name == "penguins.yaml":
        pytest.importorskip("polars", reason="needs polars: make extra NAME=tables")
    if name == "segmentation.yaml":
        from data_loader.engine.images import draw_shapes

        draw_shapes.write(tmp_path, {"train": 48, "val": 16})
        argv.append(f"data_loader.args.data_dir={tmp_path}")
    formats = {"arrays.yaml": "npy", "tar_files.yaml": "tar", "hugging_face.yaml": "parquet"}
    if name in formats:
        if formats[name] == "parquet":
            pytest.importorskip("datasets", reason="needs datasets: make extra NAME=huggingface")
            argv.append(f"data_loader.args.cache_dir={tmp_path}/cache")
        from data_loader.engine.files import write_digits

        monkeypatch.chdir(tmp_path)
        write_digits.write(formats[name], Path("data", f"digits_{formats[name]}"))
    train.main(argv)
    assert "it works, and a resume is bit-equal; nothing was left behind" in capsys.readouterr().out
