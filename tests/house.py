"""A small project of our own for tests of error messages, which must not change with the real project's models."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

FILES = {
    "model/__init__.py": "",
    "model/model.py": """
import os
import sys
from os import system
from torch import load, nn

class Net(nn.Module):
    def __init__(self, width: int, classes: int = 10, widths: tuple[int, ...] = (8, 16)): super().__init__()

class WideNet(Net):
    def __init__(self, factor: float | None = None, act: nn.Module | None = None, **kwargs):
        super().__init__(64, **kwargs)
""",
    "model/loss.py": """
def nll(output, target, smoothing: float = 0.0): return output.mean()
""",
    "model/metric.py": """
def accuracy(output, target): return output == target
def top_k(output, target, k: int = 3): return output == target
""",
    "data_loader/__init__.py": "",
    "data_loader/engine/base_data_loader.py": """
class BaseDataLoader:
    def __init__(self, dataset, batch_size: int, shuffle: bool = True, validation_split: float | int = 0.0): ...
""",
    "data_loader/data_loaders.py": """
from data_loader.engine.base_data_loader import BaseDataLoader

class Letters(BaseDataLoader):
    def __init__(self, data_dir: str, training: bool = True, **kwargs):
        super().__init__([], **kwargs)
""",
    "trainer/__init__.py": """
from trainer.engine.base_trainer import BaseTrainer
""",
    "trainer/engine/base_trainer.py": """
class BaseTrainer:
    loss_names = ("loss",)
    def __init__(self, model, criterion, metrics, optimizer, config, device, data_loader, valid_data_loader,
                 lr_scheduler, callbacks, run): ...
""",
    "trainer/trainer.py": """
from trainer.engine.base_trainer import BaseTrainer
class Trainer(BaseTrainer): ...
class GANTrainer(BaseTrainer):
    loss_names = ("g_loss", "d_loss")
    def __init__(self, *, latent: int = 64, **kwargs): super().__init__(**kwargs)
""",
    "trainer/optim.py": """
import torch
class Lion(torch.optim.Optimizer):
    def __init__(self, params, lr: float | torch.Tensor, betas: tuple[float, float] = (0.9, 0.99)):
        super().__init__(params, {"lr": lr})
class Warmup(torch.optim.lr_scheduler.LRScheduler):
    def __init__(self, optimizer, total_steps: int, shape: str = "cosine"): ...
""",
    "trainer/callbacks/ema.py": """
class EMA:
    def __init__(self, decay: float = 0.999): ...
    def after_step(self, trainer): ...
""",
}

GOOD = """name: demo
arch:
  type: Net
  args: {width: 8}
data_loader:
  type: Letters
  args:
    data_dir: data/
    batch_size: 4
    validation_split: 0.1
optimizer:
  type: Lion
  args: {lr: 1e-3}
loss: nll
metrics: [accuracy]
trainer:
  epochs: 2
  monitor: min val_loss
"""


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder, with a valid config `x.yaml`; `model`, `data_loader` and `trainer` are those above."""

    def rooms() -> list[str]:
        return [name for name in sys.modules if name.split(".")[0] in ("model", "data_loader", "trainer")]

    kept = {name: sys.modules.pop(name) for name in rooms()}
    for name, text in FILES.items():
        file = tmp_path / "house" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (tmp_path / "work").mkdir()
    (tmp_path / "work/x.yaml").write_text(GOOD)
    monkeypatch.syspath_prepend(tmp_path / "house")
    monkeypatch.chdir(tmp_path / "work")
    yield tmp_path / "work"
    for name in rooms():
        del sys.modules[name]
    sys.modules.update(kept)
