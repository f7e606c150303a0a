"""The config.json of victoresque/pytorch-template is read with its very values, and runs unmodified."""

import json
from pathlib import Path

from utils.config import load

ROOT = Path(__file__).resolve().parents[2]
VICTORESQUE = ROOT / "config/victoresque.json"


def test_values() -> None:
    run = load([VICTORESQUE]).run
    assert run.name == "Mnist_LeNet"
    assert (run.n_gpu, run.arch.type, run.arch.args, run.loss.type) == (1, "MnistModel", {}, "nll_loss")
    assert run.data_loader.model_dump() == {
        "type": "MnistDataLoader",
        "args": {"data_dir": "data/", "batch_size": 128, "shuffle": True, "validation_split": 0.1, "num_workers": 2},
    }
    optimizer = {"type": "Adam", "args": {"lr": 0.001, "weight_decay": 0, "amsgrad": True}}
    assert load([VICTORESQUE]).to_dict()["optimizer"] == optimizer
    assert [part.type for part in run.metrics] == ["accuracy", "top_k_acc"]
    schedule = {"type": "StepLR", "args": {"step_size": 50, "gamma": 0.1}, "interval": None}
    assert load([VICTORESQUE]).to_dict()["lr_scheduler"] == schedule
    trainer = run.trainer
    assert (trainer.epochs, trainer.save_dir, trainer.save_period, trainer.verbosity) == (100, "saved/", 1, 2)
    assert (trainer.monitor, trainer.early_stop, trainer.tensorboard) == ("min val_loss", 10, True)


def test_runs_unmodified(run, tmp_path: Path, mnist_dir: Path) -> None:
    """As it is, in a folder whose data/ holds MNIST; only a hundred epochs are cut to two steps of one."""
    (tmp_path / "data").symlink_to(mnist_dir)
    done = run("train.py", "-c", VICTORESQUE, "trainer.epochs=1", "trainer.limit_batches=2")
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "saved/Mnist_LeNet").iterdir()
    points = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [(p["step"], p["epoch"], p["split"]) for p in points] == [(2, 1, "train"), (2, 1, "valid")]
    assert all(0 < p["loss"] < 5 and 0 <= p["accuracy"] <= p["top_k_acc"] <= 1 for p in points)
    assert {p.name for p in (folder / "checkpoints").iterdir()} == {"checkpoint-step2.pth", "model_best.pth"}
