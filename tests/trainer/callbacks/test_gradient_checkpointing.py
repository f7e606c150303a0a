"""GradientCheckpointing: the same bits, with dropout and batch norm, from less memory."""

from typing import Any

import pytest
import torch

from tests.tiny import Tiny, tiny
from utils.errors import UsageError

__all__ = ["tiny"]
RESNET = "arch={type: SmallResNet, args: {in_channels: 1, blocks: [1, 1], width: 8}}"


def callback(*classes: str) -> str:
    return f"callbacks=[{{type: GradientCheckpointing, args: {{classes: [{', '.join(classes)}]}}}}]"


def bytes_saved(built: Any) -> int:
    """For the backward pass of one batch, without the weights."""
    weights = {p.data_ptr() for p in built.model.parameters()}
    seen: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    inputs = next(built.data_loader.iter_steps(0)).data[0]
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        built.model.train()(inputs)
    return sum(seen.values())


def same(one: Any, two: Any) -> bool:
    a, b = one.model.state_dict(), two.model.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_batch_norm_has_the_same_bits(tiny: Tiny, accumulate: int) -> None:
    keys = [RESNET, "trainer.max_steps=4", f"trainer.accumulate={accumulate}"]
    plain = tiny.train(*keys, run="plain")
    done = tiny.train(*keys, callback("_ResidualBlock"))
    assert same(plain, done)
    assert tiny.points("train") == tiny.points("train", "plain")
    assert tiny.points("valid") == tiny.points("valid", "plain")
    assert bytes_saved(done) < 0.6 * bytes_saved(plain)


def test_dropout_has_the_same_bits(tiny: Tiny, tmp_path: Any) -> None:
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 40)
    keys = [
        "arch={type: GPT, args: {layers: 4, heads: 2, width: 16, dropout: 0.1}}",
        f"data_loader={{type: LanguageModelDataLoader, args: {{file: {tmp_path}/text.txt, block_size: 16}}}}",
        "metrics=[]",
        "trainer={epochs: null, max_steps: 4, limit_batches: null}",
    ]
    plain = tiny.train(*keys, run="plain")
    done = tiny.train(*keys, callback("Block"))
    assert same(plain, done)
    assert bytes_saved(done) < 0.3 * bytes_saved(plain)


def test_a_class_that_the_model_does_not_have(tiny: Tiny) -> None:
    with pytest.raises(UsageError, match=r"classes is \['Blok'\]; give classes .*: BatchNorm2d, .*_ResidualBlock"):
        tiny.train(RESNET, callback("Blok"))


def test_blocks_are_wrapped_once(tiny: Tiny) -> None:
    """Also where steps are run again."""
    trainer = tiny.build(callback("Linear"))
    trainer.before_steps()
    wrapped = [module.forward for module in trainer.model.modules()]
    trainer.before_steps()
    assert [module.forward for module in trainer.model.modules()] == wrapped
    trainer.run.close()
