"""GeneratedText: what a language model writes, after each validation."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from logger.console import log
from utils.errors import UsageError
from utils.seed import mix

TEXT_KEY = -6  # the same draws after each validation, so that what differs is the model


class GeneratedText:
    """A sample of `length` bytes in log.txt and TensorBoard, for models of LanguageModelDataLoader and the like.

    prompt: what the text goes on from. temperature: below 1, likely bytes become more likely. top_k: draw among the
    most likely ones only. List it after EMA to see the averaged weights at work.
    """

    def __init__(
        self, length: int = 200, prompt: str = "\n", temperature: float = 0.8, top_k: int | None = None
    ) -> None:
        if length < 1 or temperature <= 0 or not prompt or (top_k is not None and top_k < 1):
            raise UsageError(
                f"callbacks: GeneratedText has length {length}, temperature {temperature}, top_k {top_k} and the "
                f"prompt '{prompt}'; give a length and top_k of 1 or more, a temperature above 0, and a prompt"
            )
        self.length, self.prompt, self.temperature, self.top_k = length, prompt, temperature, top_k

    @contextmanager
    def during_eval(self, trainer: Any) -> Iterator[None]:
        yield
        if not trainer.interrupted:
            text = self.generate(trainer)
            log.info(f"generated after step {trainer.step}: {text}")
            trainer.reporter.text("valid/generated", text, trainer.step)

    def generate(self, trainer: Any) -> str:
        """The prompt and what the model writes after it; every rank takes part, and draws the same."""
        if (block_size := trainer.data_loader.facts.get("block_size")) is None:
            raise UsageError(
                "callbacks: GeneratedText needs a data loader that states block_size in its facts, such as "
                "LanguageModelDataLoader"
            )
        draws = torch.Generator().manual_seed(mix(trainer.seed, TEXT_KEY))  # of its own: training draws as without it
        written = list(self.prompt.encode())
        for _ in range(self.length):
            tokens = torch.tensor([written[-block_size:]], device=trainer.device)
            logits = trainer.predict_step(tokens)[0, :, -1].float().cpu() / self.temperature  # waits for the device
            if self.top_k is not None and self.top_k < len(logits):
                logits[logits < logits.topk(self.top_k).values[-1]] = -torch.inf
            written.append(int(torch.multinomial(logits.softmax(0), 1, generator=draws)))
        return bytes(written).decode("utf-8", errors="replace")
