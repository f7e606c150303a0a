"""test.py: the table it prints, the line it writes, which checkpoint it takes."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny import tiny
from trainer.engine.evaluation import samples
from utils.errors import Stopped, UsageError

__all__ = ["tiny"]


@pytest.fixture
def test_py():
    """test.py, whose name is also that of a package of Python's own."""
    spec = importlib.util.spec_from_file_location("test_script", Path(__file__).resolve().parents[1] / "test.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def by_hand(trainer, weights):
    """Loss and accuracy over the 297 test digits."""
    from data_loader.data_loaders import DigitsDataLoader

    trainer.model.load_state_dict(weights)
    loader = DigitsDataLoader(batch_size=100, shuffle=False, training=False)
    inputs, targets = (torch.cat(parts) for parts in zip(*loader, strict=True))
    assert len(targets) == 297
    with torch.no_grad():
        output = trainer.model.eval()(inputs)
    loss = torch.nn.functional.cross_entropy(output.double(), targets).item()
    return loss, (output.argmax(1) == targets).double().mean().item()


def test_table_and_line(tiny, test_py, capsys):
    trainer = tiny.train("trainer.epochs=3")
    capsys.readouterr()
    test_py.main(["-r", str(tiny.folder / "run")])
    loss, accuracy = by_hand(trainer, tiny.load("checkpoint-step18.pth")["model"])
    checkpoint = tiny.folder / "run/checkpoints/checkpoint-step18.pth"
    assert capsys.readouterr().out.splitlines() == [
        f"{checkpoint}, step 18, on 297 test samples",
        f"  loss      {tiny.points('test')[0]['loss']:.6g}",
        f"  accuracy  {accuracy:.6g}",
        f"written to {tiny.folder / 'run/metrics.jsonl'}",
    ]
    (line,) = tiny.points("test")
    assert line == {
        "step": 18,
        "epoch": 3,
        "split": "test",
        "loss": pytest.approx(loss, rel=1e-6),
        "accuracy": pytest.approx(accuracy, abs=1e-8),
    }


def test_batch_size_changes_nothing(tiny, test_py):
    tiny.train()
    for batch_size in (1, 64, 297):
        test_py.main(["-r", str(tiny.folder / "run"), f"data_loader.args.batch_size={batch_size}"])
    one, *others = tiny.points("test")
    for other in others:
        assert other["accuracy"] == one["accuracy"]
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-6)


def test_the_best_or_the_one_that_is_named(tiny, test_py, capsys):
    tiny.train("trainer.epochs=3", "trainer.monitor=max val_loss")  # the first epoch's is the best
    test_py.main(["-r", str(tiny.folder / "run")])
    test_py.main(["-r", str(tiny.folder / "run/checkpoints/checkpoint-step12.pth")])
    assert [(point["step"], point["epoch"]) for point in tiny.points("test")] == [(6, 1), (12, 2)]
    assert "model_best.pth, step 6, on 297 test samples" in capsys.readouterr().out


def test_a_checkpoint_outside_of_a_run(tiny, test_py, capsys):
    tiny.train()
    (tiny.folder / "run/checkpoints/checkpoint-step12.pth").rename(tiny.folder / "mine.pth")
    test_py.main(["-r", str(tiny.folder / "mine.pth")])
    assert "mine.pth, step 12, on 297 test samples" in capsys.readouterr().out
    assert tiny.points("test") == []


def test_ema_is_tested(tiny, test_py):
    trainer = tiny.train("callbacks=[EMA]")
    test_py.main(["-r", str(tiny.folder / "run")])
    loss, accuracy = by_hand(trainer, trainer.callbacks[0].average)
    (line,) = tiny.points("test")
    assert line["loss"] == pytest.approx(loss, rel=1e-6)
    assert line["accuracy"] == pytest.approx(accuracy)


def test_no_run_and_no_checkpoint(tiny, test_py):
    with pytest.raises(UsageError, match="neither a run nor a checkpoint"):
        test_py.main(["-r", str(tiny.folder / "nothing")])
    (tiny.folder / "empty/checkpoints").mkdir(parents=True)
    (tiny.folder / "empty/config.yaml").write_text(json.dumps({}))
    with pytest.raises(UsageError, match="this run has no checkpoint yet"):
        test_py.main(["-r", str(tiny.folder / "empty")])


def test_a_damaged_checkpoint_is_reported(tiny, test_py):
    tiny.train()
    path = tiny.folder / "run/checkpoints/checkpoint-step12.pth"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(Stopped, match=r"checkpoint-step12.pth cannot be used: it is damaged or cut off"):
        test_py.main(["-r", str(path)])


def test_a_file_of_another_kind_for_the_outputs(tiny, test_py):
    with pytest.raises(UsageError, match=r"--save o\.txt: give a name that ends in \.npz"):
        test_py.main(["-r", str(tiny.folder / "run"), "--save", "o.txt"])


def test_outputs_of_each_sample(tiny, test_py, tmp_path):
    trainer = tiny.train()
    test_py.main(
        ["-r", str(tiny.folder / "run"), "--save", str(tmp_path / "out/o.npz"), "data_loader.args.batch_size=50"]
    )
    from data_loader.data_loaders import DigitsDataLoader

    trainer.model.load_state_dict(tiny.load("checkpoint-step12.pth")["model"])
    inputs, targets = next(iter(DigitsDataLoader(batch_size=297, shuffle=False, training=False)))
    with torch.no_grad():
        expected = trainer.model.eval()(inputs)
    with np.load(tmp_path / "out/o.npz") as found:
        assert found["names"].tolist() == [str(i) for i in range(297)]
        assert found["targets"].tolist() == targets.tolist()
        assert found["kind"] == "logits"
        assert found["class_names"].tolist() == [str(i) for i in range(10)]
        np.testing.assert_allclose(found["outputs"], expected.numpy(), atol=1e-5)
        np.testing.assert_allclose(found["probabilities"], expected.softmax(1).numpy(), atol=1e-5)


def test_report_by_class(tiny, test_py, capsys):
    tiny.train()
    test_py.main(["-r", str(tiny.folder / "run"), "--report"])
    lines = capsys.readouterr().out.splitlines()
    accuracy = float(next(line for line in lines if line.startswith("  accuracy")).split()[1])
    table = lines[lines.index(next(line for line in lines if line.startswith("  class"))) + 1 :]
    assert [line.split()[0] for line in table[:11]] == [*map(str, range(10)), "mean"]
    assert table[10].split()[-1] == "297"
    matrix = [[int(n) for n in line.split()[1:]] for line in table[13:23]]
    assert sum(matrix[i][i] for i in range(10)) / 297 == pytest.approx(accuracy, abs=1e-5)
    assert [sum(row) for row in matrix] == [int(line.split()[-1]) for line in table[:10]]
    assert float(table[3].split()[2]) == pytest.approx(matrix[3][3] / sum(matrix[3]), abs=1e-4)  # recall
    wrong = 297 - sum(matrix[i][i] for i in range(10))
    assert table[23] == f"worst of {wrong} wrong samples:"
    sure = [float(line.rstrip(")").split()[-1]) for line in table[24:34]]
    assert sure == sorted(sure)
    assert len(sure) == min(wrong, 10)


def test_labels_to_ignore_are_left_out_of_the_report() -> None:
    outputs = torch.eye(3)[[0, 1, 1, 2]] * 9
    targets = torch.tensor([0, 1, -100, 255])
    found = samples.Samples(np.arange(4), list("abcd"), outputs, targets)
    lines = samples.report(found, "cross_entropy", {"class_names": None, "num_classes": 3})
    assert next(line for line in lines if line.strip().startswith("mean")).split()[-1] == "2"
    assert "no sample is wrong" in lines
