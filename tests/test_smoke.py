"""These configs train, resume bit-exactly, and are tested. Add your own, with the arguments that make it quick."""

from pathlib import Path

import pytest

from tests.conftest import Run

ROOT = Path(__file__).resolve().parent.parent
CONFIGS: dict[str, list[str]] = {"config/digits.yaml": []}


@pytest.mark.parametrize("config", CONFIGS)
def test_train_resume_and_test(run: Run, tmp_path: Path, config: str) -> None:
    args = ["-c", str(ROOT / config), "name=smoke", f"trainer.save_dir={tmp_path}", *CONFIGS[config]]
    checked = run("train.py", *args, "--check")  # two steps, and again with a resume between them: the same bits
    assert checked.returncode == 0, checked.stderr
    trained = run("train.py", *args, "--run-id", "a", "trainer.epochs=1", "trainer.limit_batches=2")
    assert trained.returncode == 0, trained.stderr
    assert list(tmp_path.glob("smoke/a/checkpoints/*.pth"))
    tested = run("test.py", "-r", tmp_path / "smoke/a")
    assert tested.returncode == 0, tested.stderr
