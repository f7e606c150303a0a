"""`train.py --check`: proves that a config trains and resumes, and leaves nothing behind."""

import json

import pytest

import model.model
import train
from tests.tiny import CONFIG, tiny
from utils.errors import UsageError

__all__ = ["tiny"]


def test_check_leaves_nothing_and_reports_in_two_lines(tiny, capsys, monkeypatch):
    (tiny.folder / "c.json").write_text(json.dumps(CONFIG))
    monkeypatch.chdir(tiny.folder)
    train.main(["-c", "c.json", "--check", "trainer.keep_last=1", "trainer.monitor=min val_loss", "callbacks=[EMA]"])
    reported = capsys.readouterr()
    assert reported.out.splitlines() == [
        "checking: two steps, validation, checkpoint, resume",
        "it works, and a resume is bit-equal; nothing was left behind",
    ]
    assert reported.err == ""
    assert [path.name for path in tiny.folder.iterdir()] == ["c.json"]


def test_check_finds_a_model_that_counts_on_its_own(tiny, monkeypatch):
    class Counting(model.model.MLP):
        calls = 0

        def forward(self, x):
            type(self).calls += 1
            return super().forward(x) * (1 + 0.1 * self.calls)

    monkeypatch.setattr(model.model, "Counting", Counting, raising=False)
    (tiny.folder / "c.json").write_text(json.dumps(CONFIG))
    monkeypatch.chdir(tiny.folder)
    with pytest.raises(UsageError, match=r"a resume is not bit-equal: layers.0.weight, .* differ after step 2"):
        train.main(["-c", "c.json", "--check", "arch.type=Counting"])
