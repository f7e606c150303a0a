"""Memory per process of two transformers of more than 100M parameters, trained with AdamW: fsdp against ddp.

    python -m benchmarks.memory

gpt2: the size of GPT-2. Its token embedding, a third of all weights, is also its last layer, so it is not a block.
deep: the same with more blocks and a small vocabulary.
Two CPU processes of one thread. For ddp and fsdp alike, the allocator returns freed memory at once. The figure is the
peak memory (VmHWM) of building the trainer and running STEPS steps, minus what the imports took. No checkpoint is
written. Takes 6 GB and three minutes.
"""

import argparse
import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import train
from data_loader import BaseDataLoader, data_loaders
from model import loss, model
from trainer.engine import setup
from utils import config as configs
from utils.process import group as distributed
from utils.run_folder import Run

RANKS, STEPS, TOKENS = 2, 3, 64
MODELS = {"gpt2": {"vocabulary": 50257, "depth": 12}, "deep": {"vocabulary": 1000, "depth": 16}}


class GPT(nn.Module):
    """Tokens [B, T] -> logits [B, T, vocabulary]; the first and the last layer share a weight, as in GPT-2."""

    def __init__(self, vocabulary: int, depth: int, width: int = 768, heads: int = 12):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(1024, width)
        layer: dict[str, Any] = {"dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": True}
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(width, heads, 4 * width, **layer) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], x.device)
        x = self.tokens(x) + self.positions.weight[: x.shape[1]]
        for block in self.blocks:
            x = block(x, src_mask=mask, is_causal=True)
        return self.head(self.norm(x))


class TokensDataLoader(BaseDataLoader):
    def __init__(self, vocabulary: int, batch_size: int = RANKS):
        tokens = torch.randint(0, vocabulary, (RANKS * STEPS, TOKENS + 1))
        super().__init__(TensorDataset(tokens[:, :-1], tokens[:, 1:]), batch_size)


def next_token(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output.flatten(0, 1), target.flatten())


for module, part in ((data_loaders, TokensDataLoader), (model, GPT), (loss, next_token)):
    setattr(module, part.__name__, part)  # where configs look for it


def megabytes(what: str) -> float:
    """Of this process: VmRSS is its memory, VmHWM its peak memory."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{what}:")[1].split()[0]) / 1024


def one_rank(name: str, parallel: str) -> None:
    with setup.processes(0):
        config = configs.load(
            [
                {
                    "name": "bench",
                    "n_gpu": 0,
                    "arch": {"type": "GPT", "args": MODELS[name]},
                    "data_loader": {"type": "TokensDataLoader", "args": {"vocabulary": MODELS[name]["vocabulary"]}},
                    "loss": "next_token",
                    "optimizer": {"type": "AdamW", "args": {"lr": 1e-4}},
                    "trainer": {"max_steps": STEPS, "verbosity": 0, "parallel": parallel, "fast_cpu": False},
                }
            ]
        )
        if parallel == "fsdp":
            importlib.import_module("trainer.parallel.fsdp")  # what the code takes is not counted
        before = megabytes("VmRSS")
        trainer = train.build(config, Run(Path("nowhere")))
        trainer.train()
        most = distributed.gather(megabytes("VmHWM") - before)
        parameters = sum(p.numel() for p in trainer.model.parameters())
        if distributed.is_main():
            print("RESULT", parameters, *most, flush=True)
    os._exit(0)


def measured(name: str, parallel: str) -> tuple[int, float]:
    """The number of parameters, and the megabytes of the rank that needed most."""
    launch = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={RANKS}", "-m", "benchmarks.memory"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": str(2**18)}
    done = subprocess.run([*launch, "--rank", name, parallel], env=env, capture_output=True, text=True)
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT")), None)
    if line is None:
        sys.exit(done.stderr)
    _, parameters, *most = line.split()
    return int(parameters), max(map(float, most))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rank", nargs=2, help=argparse.SUPPRESS)
    if given := parser.parse_args().rank:
        one_rank(*given)
    for name in MODELS:
        parameters, ddp = measured(name, "ddp")
        _, fsdp = measured(name, "fsdp")
        print(f"{name}: {parameters / 1e6:.0f}M parameters, {RANKS} processes")
        print(f"  ddp   {ddp:6,.0f} MB per process")
        print(f"  fsdp  {fsdp:6,.0f} MB per process   {fsdp / ddp:.2f} of ddp", flush=True)


if __name__ == "__main__":
    main()
