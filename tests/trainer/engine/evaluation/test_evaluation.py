"""An evaluation sees each sample once, and callbacks see with each batch which samples it holds and the outputs."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import train
from tests.slow import slow_but
from tests.tiny import Tiny, tiny
from tests.trainer.parallel.ranks import BASE, on_ranks, trained
from utils import config as configs

__all__ = ["tiny"]
MLP = ["arch={type: MLP, args: {in_features: 64, hidden: [16]}}", "metrics=[accuracy]"]


class Seeing:
    """Keeps what it is handed in the last validation."""

    def __init__(self) -> None:
        self.step = -1
        self.seen: list[tuple[list[int], Any]] = []

    def after_eval_batch(self, trainer: Any, batch: Any, outputs: Any) -> None:
        if trainer.step != self.step:
            self.step = trainer.step
            self.seen.clear()
        assert not trainer.model.training
        assert batch.size == len(batch.indices) == len(outputs)
        self.seen.append((batch.indices.tolist(), outputs))


def assert_once(seen: list[tuple[list[int], Any]], loader: Any, net: nn.Module) -> None:
    """Each sample of the loader once, with the outputs of the model for that sample."""
    indices = [index for batch, _ in seen for index in batch]
    expected = loader.samples(np.arange(len(loader.samples)))
    assert sorted(indices) == sorted(expected.tolist())
    outputs = torch.cat([torch.as_tensor(given) for _, given in seen])
    inputs, _ = loader.dataset.__getitems__(np.array(indices))
    with torch.no_grad():
        torch.testing.assert_close(outputs, net.eval()(inputs), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_callback_sees_each_validation_sample_once(tiny: Tiny, workers: int) -> None:
    built = tiny.build(f"data_loader.args.num_workers={workers}", "trainer.limit_batches=null", "trainer.epochs=2")
    seeing = Seeing()
    built.callbacks.append(seeing)
    built.train()
    assert seeing.step == built.max_steps == 100
    assert len(seeing.seen) == built.valid_data_loader.steps_per_epoch == 4
    assert_once(seeing.seen, built.valid_data_loader, built.model)


def test_outputs_are_what_eval_step_returns(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    built = tiny.build()
    eval_step, returned = built.eval_step, list[Tensor]()

    def noting(batch: Any) -> Any:
        returned.append(eval_step(batch) * 2)
        return returned[-1]

    monkeypatch.setattr(built, "eval_step", noting)
    seeing = Seeing()
    built.callbacks.append(seeing)
    built.evaluate(built.valid_data_loader)
    assert len(returned) == 4
    assert all(mine is its for (_, mine), its in zip(seeing.seen, returned, strict=True))


def seen_on_rank(keys: list[str]) -> Any:
    seeing = Seeing()
    result = trained(keys, None, lambda trainer: trainer.callbacks.append(seeing))
    return [(indices, outputs.numpy()) for indices, outputs in seeing.seen], result["weights"]


@pytest.mark.parametrize(
    "ranks, keys", slow_but(lambda _, keys: not keys, [(2, []), (2, ["data_loader.args.num_workers=1"]), (4, ["few"])])
)
def test_over_ranks_each_sample_is_seen_once(ranks: int, keys: list[str]) -> None:
    """Of 97 samples in batches of 49 and 48, and of 3 on four ranks."""
    keys = [*MLP, "trainer.max_steps=2", *keys]
    if "few" in keys:
        keys = [*keys[:-1], "data_loader.args.validation_split=3"]
    found = on_ranks(ranks, seen_on_rank, keys)
    assert not [result for result in found if not isinstance(result, tuple)], found
    built = train.build(configs.load([BASE], keys), None)
    weights = {name: torch.as_tensor(value) for name, value in found[0][1].items()}
    built.model.load_state_dict(weights)
    assert_once([batch for seen, _ in found for batch in seen], built.valid_data_loader, built.model)
    assert min(len(seen) for seen, _ in found) == (0 if ranks == 4 else 2)
