"""Every optional feature goes by deleting its files: all modules still import, all remaining configs are still valid,
and two steps train."""

import re
import shutil
from pathlib import Path

import pytest

import new_project
from tests import warm

ROOT = Path(__file__).resolve().parents[2]
FEATURES = {  # its files, without its tests
    "ema": ["trainer/callbacks/ema.py"],
    "schedule-free": ["trainer/callbacks/schedule_free.py"],
    "plots of sweeps": ["utils/sweep/plots.py"],
    "swa": ["trainer/callbacks/swa.py"],
    "gradient norm": ["trainer/callbacks/grad_norm.py"],
    "gradient checkpointing": ["trainer/callbacks/gradient_checkpointing.py"],
    "layer statistics": ["trainer/callbacks/layer_statistics.py"],
    "averaging checkpoints": ["soup.py"],
    "tensorboard": ["logger/tensorboard.py", "logger/hparams.py", "logger/projector.py"],
    "trackers": ["logger/csv.py", "logger/wandb.py", "logger/trackio.py", "logger/mlflow.py"],
    "figures": ["logger/figures.py", "trainer/engine/evaluation/class_outputs.py",
                *(f"trainer/callbacks/{name}.py" for name in (
        "confusion_matrix", "mistakes", "predictions", "per_class_accuracy", "pr_curves", "embeddings", "histograms",
        "gpu_memory", "profiler"))],
    "range tests": ["find.py", "trainer/engine/commands/range_tests.py"],
    "freezing": ["trainer/callbacks/freeze.py", "config/ants_bees.yaml"],
    "generated images": ["trainer/callbacks/generated_images.py", "config/gan.yaml"],
    "gan": ["trainer/gan_trainer.py", "model/gan.py", "config/gan.yaml", "trainer/callbacks/generated_images.py"],
    "all callbacks": ["trainer/callbacks", "config/ants_bees.yaml", "config/gan.yaml", "config/shakespeare.yaml"],
    "images": ["data_loader/vision.py", "config/mnist.yaml", "config/mnist_best.yaml", "config/gan.yaml",
               "config/mnist_vit.yaml", "config/ants_bees.yaml", "config/victoresque.json"],
    "transforms of images": ["data_loader/vision.py", "data_loader/data_loaders.py", "data_loader/transforms.py",
                             "data_loader/segmentation.py", "config/segmentation.yaml",
                             "config/mnist.yaml", "config/mnist_best.yaml", "config/gan.yaml", "config/mnist_vit.yaml",
                             "config/victoresque.json", "config/digits.yaml", "config/ants_bees.yaml"],
    "the gallery of image models": ["model/vision.py", "config/digits.yaml", "config/mnist.yaml",
                                    "config/mnist_best.yaml", "config/mnist_vit.yaml"],
    "tables": ["data_loader/tabular.py", "data_loader/engine/texts/tables.py", "model/tabular.py",
               "config/penguins.yaml", "data_loader/penguins"],
    "audio": ["data_loader/audio.py", "model/audio.py", "config/spoken_digits.yaml"],
    "segmentation": ["data_loader/segmentation.py", "data_loader/engine/images/draw_shapes.py", "model/segmentation.py",
                     "config/segmentation.yaml"],
    "hugging face": ["data_loader/hugging_face.py", "data_loader/engine/files/hub.py", "config/hugging_face.yaml"],
    "numpy files": ["data_loader/arrays.py", "config/arrays.yaml"],
    "tar files": ["data_loader/tar_shards.py", "data_loader/engine/files/tar_index.py", "config/tar_files.yaml"],
    "the digits as files": ["data_loader/engine/files/write_digits.py"],
    "texts": ["data_loader/text.py", "data_loader/engine/texts/text_files.py", "model/text.py",
              "trainer/callbacks/generated_text.py", "config/nsmc.yaml", "config/shakespeare.yaml"],
    "predictions and export": ["predict.py", "trainer/inference", "export.py", "trainer/export", "examples",
                               "sweep.py"],
    "export": ["export.py", "trainer/export"],
    "sweeps": ["sweep.py", "utils/sweep", "trainer/inference/out_of_fold.py", "config/sweep"],
    "fsdp": ["trainer/parallel/fsdp.py", "trainer/checkpoint/shards.py"],
    "exact ranks": ["trainer/parallel/exact_ranks.py"],
    "troubleshooting": ["utils/troubleshooting"],
    "the report on runs": ["logger/report"],
    "shortcuts through torch": ["trainer/engine/speed/torch_internals.py", "trainer/export/torch_internals.py"],
    "your schedules": ["trainer/optim.py", "config/digits.yaml", "config/mnist.yaml", "config/mnist_best.yaml",
                       "config/mnist_vit.yaml", "config/ants_bees.yaml", "config/segmentation.yaml",
                       "config/penguins.yaml", "config/spoken_digits.yaml", "config/nsmc.yaml",
                       "config/shakespeare.yaml"],
}  # fmt: skip

ALONE = [  # parts that nothing imports, so that each can go without the others
    f"{package}.{path.stem}"
    for package in ("logger", "trainer.callbacks")
    for path in (ROOT / package.replace(".", "/")).glob("*.py")
    if path.stem in ("csv", "wandb", "trackio", "mlflow") or (package != "logger" and path.stem != "__init__")
]

MODULES = """
import importlib, pathlib
for room in ("utils", "logger", "data_loader", "model", "trainer"):
    for path in sorted(pathlib.Path(room).rglob("*.py")):
        importlib.import_module(".".join(path.with_suffix("").parts).removesuffix(".__init__"))
from utils.config import load
for path in sorted(pathlib.Path("config").iterdir()):
    if path.suffix in (".yaml", ".json") and path.stem != "schema":
        load([path]).check()
"""

# A loader and a config of one's own: what remains when any of the features is gone
LOADER = """
import torch
from torch.utils.data import TensorDataset

from data_loader import BaseDataLoader


class RowsDataLoader(BaseDataLoader):
    def __init__(self, batch_size: int = 8, training: bool = True, **kwargs):
        super().__init__(TensorDataset(torch.randn(40, 4), torch.arange(40) % 3), batch_size, **kwargs)
"""
CONFIG = """
name: rows
arch: {type: MLP, args: {in_features: 4, num_classes: 3}}
data_loader: {type: RowsDataLoader, args: {validation_split: 8}}
loss: cross_entropy
metrics: [accuracy]
optimizer: {type: AdamW, args: {lr: 0.01}}
trainer: {max_steps: 2}
"""


@pytest.fixture(scope="module")
def sources() -> dict[Path, str]:
    rooms = ("utils", "logger", "data_loader", "model", "trainer")
    return {path: path.read_text(encoding="utf-8") for room in rooms for path in (ROOT / room).rglob("*.py")}


@pytest.mark.parametrize("module", ALONE)
def test_nothing_imports_a_writer_or_a_callback(module: str, sources: dict[Path, str]) -> None:
    package, _, name = module.rpartition(".")
    imports = re.compile(rf"(from|import) {re.escape(module)}\b|from {package} import .*\b{name}\b")
    assert [path for path, text in sources.items() if name in text and imports.search(text)] == []


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project for all deletions, each of which is undone."""
    folder = tmp_path_factory.mktemp("project")
    for path in new_project.template_files():
        if not path.startswith(("tests/", "benchmarks/", "docs/")):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, folder / path)
    (folder / "data_loader/rows.py").write_text(LOADER)
    (folder / "config/rows.yaml").write_text(CONFIG)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("feature", FEATURES)
def test_a_feature_can_be_deleted(feature: str, project: Path, tmp_path: Path) -> None:
    moved = [path for path in FEATURES[feature] if not (project / path).exists()]
    assert not moved, "name them here anew"
    try:
        for number, path in enumerate(FEATURES[feature]):
            (project / path).rename(tmp_path / str(number))
        for command in (["-c", MODULES], ["train.py", "-c", "config/rows.yaml", "--run-id", feature]):
            done = warm.run(*command, cwd=project)
            assert done.returncode == 0, done.stderr[-3000:]
        assert "finished at step 2" in done.stdout
    finally:
        for number, path in enumerate(FEATURES[feature]):
            if (tmp_path / str(number)).exists():
                (tmp_path / str(number)).rename(project / path)
