"""Validation accuracy after one epoch of config/victoresque.json, against a raw PyTorch loop with the same settings.

    python -m benchmarks.victoresque --data-dir data/

Both use the same LeNet, batch size, optimizer and split sizes, but other random numbers: compare the means over seeds.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F

import train
from data_loader.vision import MnistDataLoader
from model.model import MnistModel
from utils import config as configs
from utils.run_folder import Run

CONFIG = Path(__file__).parent.parent / "config" / "victoresque.json"


def ours(data_dir: str, seed: int) -> float:
    overrides = [f"data_loader.args.data_dir={data_dir}", f"seed={seed}", "data_loader.args.num_workers=0"]
    config = configs.load([CONFIG], [*overrides, "trainer.epochs=1", "trainer.verbosity=0"])
    with tempfile.TemporaryDirectory() as folder:
        trainer = train.build(config, Run(Path(folder, "run")))
        trainer.train()
        values = trainer.evaluate(trainer.valid_data_loader)
        assert values is not None
        return values["accuracy"]


def raw(data_dir: str, seed: int) -> float:
    torch.manual_seed(seed)
    loader = MnistDataLoader(data_dir)  # only to read the files
    images, labels = loader.eval_dataset.__getitems__(range(60_000))
    order = torch.randperm(60_000)
    valid, training = order[:6_000], order[6_000:]
    model = MnistModel()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001, weight_decay=0, amsgrad=True)
    for batch in training[torch.randperm(54_000)].split(128):
        optimizer.zero_grad()
        F.nll_loss(model(images[batch]), labels[batch]).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        correct = sum((model(images[b]).argmax(1) == labels[b]).sum().item() for b in valid.split(512))
    return correct / len(valid)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", default="data/")
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, list[float]] = {"ours": [], "raw loop": []}
    for seed in range(1, args.seeds + 1):
        results["ours"].append(ours(args.data_dir, seed))
        results["raw loop"].append(raw(args.data_dir, seed))
    for name, values in results.items():
        print(
            f"{name:9} {statistics.mean(values):.4f} +- {statistics.stdev(values):.4f} over {args.seeds} seeds: "
            + " ".join(f"{value:.4f}" for value in values)
        )


if __name__ == "__main__":
    main()
