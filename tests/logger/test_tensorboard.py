"""TensorBoard event files."""

import numpy as np
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from logger.tensorboard import TensorBoard


def test_tensorboard_takes_whatever_else_torch_makes_for_it(tmp_path):
    from torch.utils.tensorboard.summary import histogram

    TensorBoard(tmp_path).write(3, histogram("weights", np.arange(10.0), "auto"))
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    [found] = events.Histograms("weights")
    assert (found.step, found.histogram_value.num, found.histogram_value.sum) == (3, 10, 45)


def test_a_resume_cuts_the_files_back(tmp_path):
    """To their sizes at the checkpoint; a file that did not exist then is deleted."""
    first = TensorBoard(tmp_path)
    first.scalars(1, 1, "train", {"loss": 2.0})
    sizes = {file.path.name: file.size for file in first.files()}
    first.scalars(2, 1, "train", {"loss": 1.0})
    lost = TensorBoard(tmp_path)
    lost.image("train/inputs", torch.zeros(1, 4, 4), 3)
    resumed = TensorBoard(tmp_path)
    resumed.cut(sizes, {"events.out.tfevents.more": b"", "../outside": b"x", "other.txt": b"x"})
    resumed.scalars(2, 1, "train", {"loss": 0.5})
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(point.step, point.value) for point in events.Scalars("train/loss")] == [(1, 2.0), (2, 0.5)]
    assert events.Tags()["images"] == []
    assert not (tmp_path.parent / "outside").exists()
    assert not (tmp_path / "other.txt").exists()
