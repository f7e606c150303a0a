"""Memory stays flat, however long a run is."""

import gc
import sys
from pathlib import Path

import pytest

from tests.tiny import tiny
from trainer.checkpoint import resume

__all__ = ["tiny"]


def in_use() -> tuple[float, int]:
    """MB of this process, and Python objects."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6, len(gc.get_objects())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_flat_over_10_000_steps_and_160_epochs(tiny):
    trainer = tiny.build(
        "trainer.epochs=1000", "trainer.max_steps=10000", "trainer.limit_batches=null", "trainer.tensorboard=true",
        "trainer.verbosity=0", "trainer.save_period=20", "trainer.clip_grad_norm=1.0", "optimizer.type=Adam",
        "lr_scheduler=WarmupCosineLR", "metrics=[accuracy, top_k_acc]",
    )  # fmt: skip
    resume.start(trainer)
    run_step, seen = trainer.run_step, {}

    def watched(stream, log_due):
        rates = run_step(stream, log_due)
        if trainer.step in (2_500, 10_000):
            seen[trainer.step] = in_use()
        return rates

    trainer.run_step = watched
    trainer.train()
    trainer.run.close()
    assert trainer.step == 10_000
    (before, objects_before), (after, objects_after) = seen[2_500], seen[10_000]
    assert after - before < 4, (before, after)  # an epoch that keeps its 50 batches would take more
    assert objects_after - objects_before < 500
