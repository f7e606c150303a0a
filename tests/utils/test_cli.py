"""cli.read: which config and which run a command line means. And the exit codes."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.house import GOOD
from utils import cli
from utils.errors import Interrupted, Stopped, UsageError
from utils.exit_codes import exit_with

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "x.yaml").write_text(GOOD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT", raising=False)
    return tmp_path


def read(line: str) -> tuple[str, str | None, bool]:
    """(the run's folder, its checkpoint, whether it exists)"""
    _, run = cli.read(cli.parse("", {}, line.split()))
    return str(run), str(run.checkpoint) if run.checkpoint else None, run.exists


def a_run(folder: Path, name: str) -> Path:
    made = folder / "saved/demo" / name
    (made / "checkpoints").mkdir(parents=True)
    (made / "config.yaml").write_text(GOOD)
    (made / "checkpoints/checkpoint-step1.pth").touch()
    return made


def test_a_new_run(folder: Path) -> None:
    assert read("-c x.yaml --run-id a trainer.save_dir=runs") == ("runs/demo/a", None, False)
    assert not (folder / "runs").exists()
    assert read("-c x.yaml -r auto --run-id a") == ("saved/demo/a", None, False)


def test_an_old_run(folder: Path) -> None:
    a_run(folder, "a")
    config, run = cli.read(cli.parse("", {}, ["-r", "saved/demo/a", "seed=7"]))  # its own config
    assert (str(run), config.run.name, config.run.seed) == ("saved/demo/a", "demo", 7)
    assert read("-c x.yaml -r auto") == ("saved/demo/a", None, True)
    checkpoint = "saved/demo/a/checkpoints/checkpoint-step1.pth"
    assert read(f"-r {checkpoint}") == ("saved/demo/a", checkpoint, True)


def test_restarted_by_torchrun(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failure: the newest checkpoint, not the one on the command line."""
    a_run(folder, "a")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert read("-r saved/demo/a/checkpoints/checkpoint-step1.pth") == ("saved/demo/a", None, True)
    assert read("-c x.yaml") == ("saved/demo/a", None, True)


def test_names_that_are_too_long(folder: Path) -> None:
    """Of a run, or of a file: refused, not a traceback; and a long KEY=VALUE is no file name."""
    long = "a" * 300
    for line, said in [
        (f"-c x.yaml name={long}", "of at most 255 bytes"),
        (f"-c x.yaml --run-id {long}", "of at most 255 bytes"),
        (f"-c {long}.yaml", "File name too long"),
        (f"-r {long}", "neither a run nor a checkpoint"),
    ]:
        with pytest.raises(UsageError, match=said):
            read(line)
    assert read(f"-c x.yaml --run-id a custom.note={long}")[0] == "saved/demo/a"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "-c x.yaml --trainer.epochs=3",
            "--trainer.epochs=3; a key of the config is written without dashes: trainer.epochs=3",
        ),
        ("-c x.yaml --epochs 3", "--epochs; a key of the config is written without dashes: trainer.epochs=3"),
        ("-c x.yaml --seed 3", "--seed; a key of the config is written without dashes: trainer.epochs=3"),
        ("-c x.yaml --chek", "--chek (did you mean '--check'?)"),
    ],
)
def test_unknown_options(folder: Path, line: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.parse("", {}, line.split())
    assert f"error: unrecognized arguments: {said}" in capsys.readouterr().err


def test_a_run_id_for_an_old_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.parse("", {}, ["-r", "saved/demo/a", "--run-id", "b"])
    assert "--run-id names a new run" in capsys.readouterr().err


def test_a_config_after_r(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"-r x.yaml: a config, expected a run's folder; .* write train.py -c x.yaml"):
        read("-r x.yaml")


def test_save_dir_is_expanded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder / "home"))
    for where in ("~/runs", "$HOME/runs"):
        assert read(f"-c x.yaml --run-id a trainer.save_dir={where}")[0] == f"{folder}/home/runs/demo/a"


def test_replay_needs_a_run(folder: Path) -> None:
    with pytest.raises(UsageError, match="--replay needs the run"):
        read("-c x.yaml --replay 3")


def test_the_command_line_imports_neither_pydantic_nor_torch() -> None:
    code = "import sys; from utils import cli; print({'pydantic', 'yaml', 'torch', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def raising(error: BaseException) -> Callable[[], None]:
    def main() -> None:
        raise error

    return main


@pytest.mark.parametrize(
    "main, code, said",
    [
        (lambda: None, 0, ""),
        (raising(UsageError("why")), 2, "error: why\n"),
        (raising(Stopped("why")), 3, "stopped: why\n"),
        (raising(Interrupted("saved", 143)), 143, "saved\n"),
        (raising(KeyboardInterrupt()), 130, ""),
        (raising(ValueError("why")), 1, "ValueError: why\n"),
    ],
)
def test_exit_codes(main: Callable[[], None], code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        exit_with(main)
    assert stop.value.code == code
    assert capsys.readouterr().err.endswith(said)
