"""GeneratedText: what a language model writes after each validation, which disturbs no draw of the training."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from tests.tiny import Tiny, tiny
from trainer.callbacks.generated_text import GeneratedText
from utils.errors import UsageError

__all__ = ["tiny"]


@pytest.fixture
def model(tmp_path: Path) -> list[str]:
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 40)
    return [
        "arch={type: GPT, args: {layers: 1, heads: 2, width: 16}}",
        f"data_loader={{type: LanguageModelDataLoader, args: {{file: {text}, block_size: 16, batch_size: 8}}}}",
        "metrics=[Perplexity]",
        "optimizer={type: AdamW, args: {lr: 0.01}}",
        "trainer={epochs: null, max_steps: 6, valid_steps: 3, save_steps: 4, limit_batches: null, tensorboard: true}",
    ]


def test_generated_text(tiny: Tiny, model: list[str]) -> None:
    callback = "callbacks=[{type: GeneratedText, args: {length: 30, prompt: the, top_k: 5}}]"
    done = tiny.train(*model, callback, run="with")
    log = tiny.log("with")
    assert [f"generated after step {step}: the" in log for step in (3, 6)] == [True, True]
    with done.eval_mode():
        text = done.callbacks[0].generate(done)
        assert text == done.callbacks[0].generate(done)  # the same draws each time
    assert len(text.encode()) == 33
    assert text in log
    events = EventAccumulator(str(tiny.folder / "with"))
    events.Reload()
    shown = events.Tensors("valid/generated/text_summary")
    assert [event.step for event in shown] == [3, 6]
    assert text in shown[-1].tensor_proto.string_val[0].decode()
    tiny.train(*model, run="without")
    for split in ("train", "valid"):
        assert tiny.points(split, "with") == tiny.points(split, "without") != []
    assert tiny.points("valid", "with")[-1]["Perplexity"] > 1


def test_what_it_does_not_accept(tiny: Tiny) -> None:
    with pytest.raises(UsageError, match="GeneratedText has length 0"):
        GeneratedText(length=0)
    with pytest.raises(UsageError, match="needs a data loader that states block_size"):
        tiny.train("callbacks=[GeneratedText]", "trainer.max_steps=2")
