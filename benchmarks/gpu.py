"""Samples/s on one CUDA GPU: this trainer against a bare loop over the same model, data and optimizer.

    python -m benchmarks.gpu [ROW ...] [--steps 200] [--rounds 3]
    python -m benchmarks.gpu --smoke          # does the script work? tiny models, two steps, on the CPU

Rows: mlp; mnist (config/mnist.yaml) and mnist-resident; resnet18 (CIFAR-10-shaped), resnet50 (ImageNet-shaped) and gpt2
(124M parameters), the last three in bf16, each eager and compiled. All data is random. Both loops keep it on the GPU,
images as uint8; only in the row mnist does ours keep it in host memory, as that config does. The bare loop does nothing
but the step. Ours does everything that it does by default, and torch.cuda.set_sync_debug_mode("error") fails if the
host waits for the GPU in any step between two log points. Interleaved in one process; the figures are medians over
rounds.
"""

import argparse
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

import train
from benchmarks.mnist import random_mnist
from data_loader import BaseDataLoader, data_loaders, vision
from model import loss as losses
from model import model as models
from trainer.checkpoint import resume
from trainer.engine.speed import backends
from utils import config as configs
from utils.config import names
from utils.run_folder import Run
from utils.tensors import to_device

WARM, LOG_STEPS, DISTINCT = 20, 50, 4  # steps before the clock starts; steps; batches of data, which come again
CONFIG = Path(__file__).parents[1] / "config/mnist.yaml"


# -- models -----------------------------------------------------------------------------------------------------------


class ResNet50(nn.Module):
    """torchvision's; `layers` makes it small."""

    def __init__(self, layers: tuple[int, ...] = (3, 4, 6, 3)) -> None:
        super().__init__()
        from torchvision.models.resnet import Bottleneck, ResNet

        self.net = ResNet(Bottleneck, list(layers))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in self.qkv(self.norm1(x)).chunk(3, dim=2))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # [B, heads, T, width / heads]
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class GPT2(nn.Module):
    """GPT-2 (Radford et al., 2019), 124M parameters by default: tokens [B, T] -> logits [B, T, vocabulary].

    Without dropout, as usual for models of that size on large corpora.
    """

    def __init__(
        self, layers: int = 12, heads: int = 12, width: int = 768, context: int = 1024, vocabulary: int = 50257
    ) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.tokens.weight
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.tokens(tokens) + self.positions.weight[: tokens.shape[1]])))


def token_loss(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output.flatten(0, 1), target.flatten())


# -- rows -------------------------------------------------------------------------------------------------------------


@dataclass
class Row:
    arch: str
    args: dict[str, Any]
    batch: int
    shape: tuple[int, ...]  # of one input
    classes: int = 10
    loss: str = "cross_entropy"
    precision: str = "bf16"
    compile: tuple[bool, ...] = (False, True)
    small: dict[str, Any] = field(default_factory=dict)  # what --smoke changes
    config: Path | None = None
    resident: bool = True

    def data(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Inputs and targets: uint8 images and classes, tokens and next tokens, or plain numbers."""
        n = DISTINCT * self.batch
        if self.loss == "token_loss":
            tokens = torch.randint(0, self.classes, (n, self.shape[0] + 1), generator=generator)
            return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
        targets = torch.randint(0, self.classes, (n,), generator=generator)
        if len(self.shape) == 1:
            return torch.randn(n, *self.shape, generator=generator), targets
        return torch.randint(0, 256, (n, *self.shape), dtype=torch.uint8, generator=generator), targets


ROWS = {
    "mlp": Row("MLP", {"in_features": 64}, 128, (64,), precision="fp32", compile=(False,)),
    "mnist": Row(
        "ConvNet",
        {"widths": [16, 32, 64]},
        128,
        (1, 28, 28),
        precision="fp32",
        compile=(False,),
        small={"args": {"widths": [4], "depth": 1}, "batch": 8},
        config=CONFIG,
        resident=False,
    ),
    "resnet18": Row("SmallResNet", {}, 512, (3, 32, 32), small={"args": {"blocks": [1], "width": 4}, "batch": 4}),
    "resnet50": Row(
        "ResNet50",
        {},
        256,
        (3, 224, 224),
        classes=1000,
        small={"args": {"layers": [1, 1, 1, 1]}, "batch": 4, "shape": (3, 32, 32)},
    ),
    "gpt2": Row(
        "GPT2",
        {},
        16,
        (1024,),
        classes=50257,
        loss="token_loss",
        small={
            "args": {"layers": 1, "heads": 2, "width": 16, "context": 8, "vocabulary": 50},
            "batch": 4,
            "shape": (8,),
            "classes": 50,
        },
    ),
}
ROWS["mnist-resident"] = replace(ROWS["mnist"], resident=True)


class InMemory(Dataset[Any]):
    """The samples of a row, enough for all steps; uint8 becomes floats of about one, on the device of the data."""

    uses_sample_keys = True  # it draws nothing

    def __init__(self, row: Row, steps: int) -> None:
        self.length = steps * row.batch
        self.inputs, self.targets = row.data(torch.Generator().manual_seed(0))

    def to(self, device: torch.device) -> None:
        self.inputs, self.targets = self.inputs.to(device), self.targets.to(device)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        return tuple(batch[0] for batch in self.__getitems__([index]))

    def __getitems__(self, indices: Any) -> tuple[Tensor, Tensor]:
        at = to_device(torch.as_tensor(indices) % len(self.inputs), self.inputs.device)
        return as_floats(self.inputs.index_select(0, at)), self.targets.index_select(0, at)


def as_floats(x: Tensor) -> Tensor:
    return x.float().sub_(127.5).div_(64) if x.dtype == torch.uint8 else x


class BenchDataLoader(BaseDataLoader):
    def __init__(self, row: str, steps: int, batch_size: int, resident: bool) -> None:
        super().__init__(InMemory(ROWS[row], steps), batch_size, resident=resident)


for room, parts in ((models, (ResNet50, GPT2)), (losses, (token_loss,)), (data_loaders, (BenchDataLoader,))):
    for part in parts:
        setattr(room, part.__name__, part)  # where configs look for it
setattr(vision, "read_mnist", random_mnist)  # noqa: B010


# -- loops ------------------------------------------------------------------------------------------------------------


def bare(name: str, compiled: bool, steps: int, device: torch.device) -> float:
    """Samples/s of the loop written by hand."""
    row = ROWS[name]
    torch.manual_seed(0)
    model = names.find("arch", row.arch)(**row.args).to(device)
    image, bf16 = len(row.shape) == 3, row.precision == "bf16"
    if image and bf16:
        model = model.to(memory_format=torch.channels_last)
    forward = torch.compile(model) if compiled else model
    loss_of = getattr(losses, row.loss)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    inputs, targets = (t.to(device) for t in row.data(torch.Generator().manual_seed(0)))
    order = torch.randperm((WARM + steps) * row.batch).remainder(len(inputs)).to(device)
    clock = Clock(device)
    for step in range(WARM + steps):
        if step == WARM:
            clock.start()
        at = order[step * row.batch :][: row.batch]
        x = as_floats(inputs[at])
        if image and bf16:
            x = x.contiguous(memory_format=torch.channels_last)
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = loss_of(forward(x), targets[at])
        loss.backward()
        optimizer.step()
    return steps * row.batch / clock.stop()


def ours(name: str, compiled: bool, steps: int, device: torch.device) -> float:
    row = ROWS[name]
    changes: dict[str, Any] = {
        "n_gpu": int(device.type == "cuda"),
        "trainer": {"max_steps": WARM + steps, "log_steps": LOG_STEPS, "verbosity": 0, "save_period": 10**6},
    }
    if row.config is not None:
        changes["arch"] = {"args": row.args}
        changes["data_loader"] = {"args": {"batch_size": row.batch, "resident": row.resident}}
        changes["trainer"]["valid_period"] = 10**6
        changes["trainer"]["monitor"] = "off"
        config = configs.load([row.config, changes])
    else:
        loader = {"row": name, "steps": WARM + steps, "batch_size": row.batch, "resident": row.resident}
        changes |= {
            "name": "bench",
            "arch": {"type": row.arch, "args": row.args},
            "data_loader": {"type": "BenchDataLoader", "args": loader},
            "loss": row.loss,
            "metrics": [] if row.loss == "token_loss" else ["accuracy"],
            "optimizer": {"type": "AdamW", "args": {"lr": 1e-3}},
        }
        changes["trainer"] |= {"precision": row.precision, "compile": compiled}
        config = configs.load([changes])
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder, "run"))
        trainer = train.build(config, run)
        resume.start(trainer)
        run_step, clock, seconds = trainer.run_step, Clock(device), 0.0

        def timed(stream: Iterator[Any], log_due: bool) -> dict[str, float]:
            nonlocal seconds
            if trainer.step == WARM:
                clock.start()
            with no_waiting(device, trainer.step >= WARM and not log_due):
                rates = run_step(stream, log_due)
            if trainer.step == WARM + steps:
                seconds = clock.stop()
            return rates

        setattr(trainer, "run_step", timed)  # noqa: B010
        trainer.train()
        run.close()
    return steps * row.batch / seconds


@contextlib.contextmanager
def no_waiting(device: torch.device, strict: bool) -> Iterator[None]:
    """Raises an error if the host waits for the GPU inside."""
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error" if strict else "default")
    try:
        yield
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")


class Clock:
    """Seconds from `start` to `stop`; both wait until the device has finished."""

    def __init__(self, device: torch.device) -> None:
        self.wait: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else lambda: None

    def start(self) -> None:
        self.wait()
        self.since = time.perf_counter()

    def stop(self) -> float:
        self.wait()
        return time.perf_counter() - self.since


def main() -> None:
    global WARM
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)} (default: all)")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="on the CPU, tiny, only to see that the script works")
    args = parser.parse_args()
    if unknown := [name for name in args.rows if name not in ROWS]:
        parser.error(f"there is no row {', '.join(unknown)}; rows: {', '.join(ROWS)}")
    if not args.smoke and not torch.cuda.is_available():
        sys.exit("no CUDA GPU here: nothing was measured (--smoke tries the script on the CPU)")
    device = torch.device("cpu" if args.smoke else "cuda")
    if args.smoke:
        WARM, args.steps, args.rounds = 1, 2, 1
        torch.set_num_threads(1)
        for row in ROWS.values():
            vars(row).update(row.small, compile=(False,))
        print("smoke: tiny models on the CPU, these speeds mean nothing")
    else:
        print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
        backends.tf32(True)  # for both
    for name in args.rows or ROWS:
        for compiled in ROWS[name].compile:
            pairs = [[loop(name, compiled, args.steps, device) for loop in (bare, ours)] for _ in range(args.rounds)]
            theirs, mine = (statistics.median(speeds) for speeds in zip(*pairs, strict=True))
            ratio = statistics.median(own / other for other, own in pairs)
            label = name + (" compiled" if compiled else "")
            reported = f"{label:18} bare {theirs:10,.0f} samples/s   ours {mine:10,.0f} samples/s   {ratio:.3f} of bare"
            print(reported, flush=True)


if __name__ == "__main__":
    main()
