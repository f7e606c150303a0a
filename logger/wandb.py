"""Weights & Biases. Offline with `mode: offline` or WANDB_MODE=offline; `wandb sync` uploads such a run later."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Literal

import numpy as np
from torch import Tensor

from logger.console import log
from logger.writer import RunInfo, Writer, id_of, send

STEP = "step"  # the axis of all charts; W&B's own step only grows, but a resume goes back
RESENT = 1000  # points: its process may lose the last ones if all is killed at once


class Wandb(Writer):
    """Scalars as train/NAME and valid/NAME. A resumed run continues the same W&B run.

    project: default: the config's name. name: default: that of the run's folder.
    """

    libraries = {"wandb": "wandb"}
    background = True

    def __init__(
        self,
        project: str | None = None,
        entity: str | None = None,
        name: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
        notes: str | None = None,
        mode: Literal["online", "offline", "disabled"] | None = None,
    ) -> None:
        self.project, self.entity, self.name, self.group = project, entity, name, group
        self.tags, self.notes, self.mode = tags, notes, mode

    def open(self, run: RunInfo) -> None:
        import wandb

        self.run = wandb.init(
            project=self.project or run.name,
            entity=self.entity,
            name=self.name or run.folder.name,
            group=self.group,
            tags=list(self.tags),
            notes=self.notes,
            mode=self.mode,
            id=id_of(run.folder),
            resume="allow",
            dir=str(run.folder),
            config=run.recorded,
            allow_val_change=True,  # a resume may have changed keys
            settings=wandb.Settings(console="off", silent=True),  # log.txt has the console
        )
        self.run.define_metric("*", step_metric=STEP)
        if not self.run.offline:
            log.info(f"Weights & Biases: {self.run.url}")

    def scalars(self, step: int, epoch: int, split: str, values: Mapping[str, float]) -> None:
        self.run.log({STEP: step, "epoch": epoch, **{f"{split}/{name}": value for name, value in values.items()}})

    def image(self, name: str, picture: Tensor, step: int) -> None:
        import wandb

        pixels = (picture * 255).byte().permute(1, 2, 0).numpy()
        self.run.log({STEP: step, name: wandb.Image(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)})

    def text(self, name: str, text: str, step: int) -> None:
        import wandb

        self.run.log({STEP: step, name: wandb.Html(f"<pre>{escape(text, quote=False)}</pre>", inject=False)})

    def histogram(self, name: str, values: np.ndarray, step: int) -> None:
        import wandb

        self.run.log({STEP: step, name: wandb.Histogram(np_histogram=np.histogram(values, bins=64))})

    def result(self, step: int, values: Mapping[str, float]) -> None:
        self.run.summary.update(dict(values))

    def catch_up(self, points: Sequence[Mapping[str, Any]]) -> None:
        for point in points[-RESENT:]:
            send(self, point)

    def close(self) -> None:
        self.run.finish()
