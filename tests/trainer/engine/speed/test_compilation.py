"""trainer.compile: the same run, refused early where torch cannot compile."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.tiny import CONFIG, tiny
from trainer.engine.speed import compilation
from trainer.engine.speed.compilation import Compiler
from utils import config as configs
from utils.errors import Stopped, UsageError

__all__ = ["tiny"]
ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture
def eager(monkeypatch):
    """What finds the graphs is torch's; what runs them is torch without a compiler, so bits are those of no compile."""
    monkeypatch.setattr(compilation, "BACKEND", "eager")
    torch._dynamo.reset()


def warned(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "groundwork" and record.levelno > 20]


def equal(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_the_same_run(tiny, eager, capsys):
    options = ["arch={type: ConvNet, args: {widths: [4], dropout: 0.2}}", "trainer.limit_batches=null"]
    options += ["data_loader.args.batch_size=250", "metrics=[accuracy, top_k_acc]"]  # steps of 266 and 267 samples
    plain = tiny.train(*options, run="plain")
    assert "compile" not in capsys.readouterr().out
    compiled = tiny.train(*options, "trainer.compile=true")
    assert equal(compiled.model, plain.model)
    assert list(compiled.model.state_dict()) == list(plain.model.state_dict())
    assert tiny.points("train") == tiny.points("train", "plain")
    assert tiny.points("valid") == tiny.points("valid", "plain")
    reported = capsys.readouterr()
    assert reported.err == (
        "warning: trainer.compile: on a CPU it is seldom faster; compare samples/s with trainer.compile=false\n"
    )
    assert "the first step compiles, which may take minutes; so does" in reported.out


def test_a_resume_compiled_is_exact(tiny, eager):
    options = ["arch={type: ConvNet, args: {widths: [4], dropout: 0.2}}", "trainer.compile=true"]
    whole = tiny.train(*options, run="whole")
    tiny.train(*options, "trainer.epochs=1")
    assert equal(tiny.train(*options).model, whole.model)


def test_a_trainer_that_calls_parts_only_is_warned_of(caplog):
    compilation.log.propagate = True
    Compiler(True).start(torch.device("cpu"), calls_parts=True)
    assert warned(caplog) == [
        "trainer.compile: nothing is compiled: this trainer calls parts of the model, never the model"
    ]


class Double(torch.nn.Module):
    def forward(self, x):
        return x + x


def test_each_shape_is_compiled(monkeypatch):
    """All of them, not torch's first 8: which came first would decide what is compiled."""
    graphs = []

    def counted(graph, inputs):
        graphs.append(graph)
        return graph

    monkeypatch.setattr(compilation, "BACKEND", counted)
    torch._dynamo.reset()
    double = Double()
    Compiler(True).compile(double)
    for n in range(2, 14):
        assert double(torch.ones(n)).sum() == 2 * n
    assert len(graphs) == 12


def test_refused_where_torch_cannot_compile(monkeypatch):
    monkeypatch.setattr(compilation, "BACKEND", "nonsense")
    compilation.check(False, torch.device("cpu"))
    with pytest.raises(
        UsageError, match=r"(?s)trainer.compile: true was given, but torch cannot compile here: .*nonsense"
    ):
        compilation.check(True, torch.device("cpu"))


def test_a_model_that_does_not_compile_stops_the_run_with_a_reason(tiny, eager, monkeypatch):
    def broken(graph, inputs):
        raise ValueError("no such kernel\nand more")

    monkeypatch.setattr(compilation, "check", lambda *args: None)
    monkeypatch.setattr(compilation, "BACKEND", broken)
    torch._dynamo.reset()
    trainer = tiny.build("trainer.compile=true")
    with pytest.raises(Stopped) as e:
        trainer.train()
    assert str(e.value) == "trainer.compile: ValueError: no such kernel\nTrain without it: trainer.compile=false"


def test_a_whole_step_is_no_longer_compiled():
    """A word of an older version is refused with what is accepted instead; its word for the model is still read."""
    with pytest.raises(UsageError, match=r'trainer.compile=step: got "step", expected true or false'):
        configs.load([CONFIG], ["trainer.compile=step"])
    assert configs.load([CONFIG], ["trainer.compile=model"]).run.trainer.compile is True


def test_other_errors_are_left_alone():
    assert compilation.failed(RuntimeError("shapes")) is None


@pytest.mark.slow
def test_without_a_compiler_exit_code_2_before_any_work(tiny):
    env = {**os.environ, "CXX": "/no/such/compiler", "TORCHINDUCTOR_CACHE_DIR": str(tiny.folder / "cache")}
    config = str(ROOT / "config/digits.yaml")
    command = [sys.executable, str(ROOT / "train.py"), "-c", config, "trainer.compile=true", "n_gpu=0"]
    done = subprocess.run(command, cwd=tiny.folder, env=env, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "true was given, but torch cannot compile here: " in done.stderr
    assert "or set trainer.compile=false" in done.stderr
    assert not (tiny.folder / "saved").exists()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler")
def test_really_compiled_close_to_plain_and_exact_over_a_resume(tiny):
    options = ["arch={type: ConvNet, args: {widths: [4], dropout: 0.0}}"]
    plain = tiny.train(*options, run="plain")
    compiled = tiny.train(*options, "trainer.compile=true", run="compiled")
    for a, b in zip(plain.model.parameters(), compiled.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    options = ["arch={type: ConvNet, args: {widths: [4], dropout: 0.3}}", "trainer.compile=true"]
    whole = tiny.train(*options, run="whole")
    tiny.train(*options, "trainer.max_steps=8")
    assert equal(tiny.train(*options, "trainer.max_steps=null").model, whole.model)
