"""Samples of a batch that could not be read."""

from logger.logger import log
from utils.errors import Stopped


def note_skipped(bad: list[tuple[int, str]], skipped: list[int], allowed: int) -> None:
    """Add samples that could not be read, (index, why), to those `skipped`; raises Stopped above `allowed`."""
    for index, why in bad:
        if index not in skipped:
            skipped.append(index)
            log.warning(f"skipped ({len(skipped)} of {allowed} allowed): {why}")
    if len(skipped) > allowed:
        raise Stopped(
            f"more than trainer.skip_bad_samples = {allowed} samples could not be read: {sorted(skipped)}; repair or "
            f"remove them, or allow more"
        )
