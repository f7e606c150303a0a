"""trainer.compile: the same run, its graphs counted and told; refused early where torch cannot compile."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.tiny import tiny
from trainer import compiling
from trainer.compiling import Compiler
from utils.errors import Refused, Stopped

__all__ = ["tiny"]
ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def eager(monkeypatch):
    """What finds the graphs is torch's; what runs them is torch without a compiler, so bits are those of no compile."""
    monkeypatch.setattr(compiling, "BACKEND", "eager")
    torch._dynamo.reset()


def told(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "groundwork" and record.levelno > 20]


def equal(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("what", ["true", "step"])
def test_the_same_run_and_what_was_compiled_is_told(tiny, eager, capsys, what):
    options = ["arch={type: ConvNet, args: {widths: [4], dropout: 0.2}}", "trainer.limit_batches=null"]
    options += ["data_loader.args.batch_size=250", "metrics=[accuracy, top_k_acc]"]  # steps of 266 and 267 samples
    plain = tiny.train(*options, run="plain")
    assert "compile" not in capsys.readouterr().out
    compiled = tiny.train(*options, f"trainer.compile={what}")
    assert equal(compiled.model, plain.model)
    assert list(compiled.model.state_dict()) == list(plain.model.state_dict())
    assert tiny.points("train") == tiny.points("train", "plain")
    assert tiny.points("valid") == tiny.points("valid", "plain")
    told = capsys.readouterr()
    assert told.err == (
        "warning: trainer.compile: on a CPU it is seldom faster; compare samples/s with trainer.compile=false\n"
    )
    lines = [line for line in told.out.splitlines() if "compile" in line]
    assert lines == [
        "the first step compiles, which may take minutes",
        "compiled in step 1: 1 graph, 0 s",
        "compiled again in step 3: 1 graph, 0 s",
        "compiled again in the validation after step 6: 1 graph, 0 s",
    ]


def test_a_resume_compiled_is_exact(tiny, eager):
    options = ["arch={type: ConvNet, args: {widths: [4], dropout: 0.2}}", "trainer.compile=step"]
    whole = tiny.train(*options, run="whole")
    tiny.train(*options, "trainer.epochs=1")
    assert equal(tiny.train(*options).model, whole.model)


def test_a_model_never_called_as_a_whole_is_told_once(caplog):
    compiling.log.propagate = True
    compiler = Compiler(True)
    compiler.tell("step 1")
    compiler.tell("step 2")
    assert len(told(caplog)) == 1
    assert told(caplog)[0].startswith("trainer.compile: nothing was compiled, since this trainer never calls")


def test_many_graphs_are_warned_of(caplog, eager):
    compiling.log.propagate = True
    compiler = Compiler("step")
    double = compiler.step(lambda x: x + x)
    assert compiler.step(test_many_graphs_are_warned_of) is compiler.step(test_many_graphs_are_warned_of)
    compiling.check("step", torch.device("cpu"))
    for n in range(2, 14):  # all of them, not torch's first 8: which came first would decide what is compiled
        assert double(torch.ones(n)).sum() == 2 * n
    assert compiler.graphs == 12
    compiler.tell("step 1")
    compiler.tell("step 2")
    assert told(caplog) == [
        "trainer.compile: 12 graphs by now, one for each shape and mode. Give all samples one shape, or set "
        "trainer.compile=false"
    ]


def test_refused_where_torch_cannot_compile(monkeypatch):
    monkeypatch.setattr(compiling, "BACKEND", "nonsense")
    compiling.check(False, torch.device("cpu"))
    with pytest.raises(
        Refused, match=r"(?s)trainer.compile: step was given, but torch cannot compile here: .*nonsense"
    ):
        compiling.check("step", torch.device("cpu"))


def test_a_model_that_does_not_compile_stops_the_run_with_a_reason(tiny, eager, monkeypatch):
    trainer = tiny.build("trainer.compile=model")

    def broken(graph, inputs):
        raise ValueError("no such kernel\nand more")

    monkeypatch.setattr(torch._dynamo, "lookup_backend", lambda name: broken)
    with pytest.raises(Stopped) as e:
        trainer.train()
    assert str(e.value) == "trainer.compile: ValueError: no such kernel\nTrain without it: trainer.compile=false"


def test_other_errors_are_left_alone():
    assert compiling.failed(RuntimeError("shapes")) is None


def test_without_a_compiler_exit_code_2_before_any_work(tiny):
    env = {**os.environ, "CXX": "/no/such/compiler", "TORCHINDUCTOR_CACHE_DIR": str(tiny.folder / "cache")}
    config = str(ROOT / "config/digits.yaml")
    command = [sys.executable, str(ROOT / "train.py"), "-c", config, "trainer.compile=true", "n_gpu=0"]
    done = subprocess.run(command, cwd=tiny.folder, env=env, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "error: trainer.compile: True was given, but torch cannot compile here: " in done.stderr
    assert "or set trainer.compile=false" in done.stderr
    assert not (tiny.folder / "saved").exists()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler")
@pytest.mark.parametrize("what", ["model", "step"])
def test_really_compiled_close_to_plain_and_exact_over_a_resume(tiny, what):
    options = ["arch={type: ConvNet, args: {widths: [4], dropout: 0.0}}"]
    plain = tiny.train(*options, run="plain")
    compiled = tiny.train(*options, f"trainer.compile={what}", run="compiled")
    for a, b in zip(plain.model.parameters(), compiled.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    options = ["arch={type: ConvNet, args: {widths: [4], dropout: 0.3}}", f"trainer.compile={what}"]
    whole = tiny.train(*options, run="whole")
    tiny.train(*options, "trainer.max_steps=8")
    assert equal(tiny.train(*options, "trainer.max_steps=null").model, whole.model)
