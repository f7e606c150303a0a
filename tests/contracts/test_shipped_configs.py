"""Every shipped config runs: two steps, a validation, a checkpoint, and a resume from it that is bit-equal."""

from pathlib import Path

import pytest

import train

FOLDER = Path(__file__).resolve().parents[2] / "config"
CONFIGS = sorted(f.name for f in FOLDER.iterdir() if f.suffix in (".yaml", ".json") and f.name != "schema.json")


@pytest.mark.parametrize("name", CONFIGS)
def test_runs(name: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["-c", str(FOLDER / name), "--check"]
    if "MnistDataLoader" in (FOLDER / name).read_text():
        argv.append(f"data_loader.args.data_dir={request.getfixturevalue('mnist_dir')}")
    train.main(argv)
    assert "it works, and a resume is bit-equal; nothing was left behind" in capsys.readouterr().out
