"""trackio: a local tracker without an account. `trackio show --project NAME` opens it."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from logger.console import log
from logger.writer import RunInfo, Writer, lacking, send


class Trackio(Writer):
    """Scalars as train/NAME and valid/NAME. The run is called like its folder; a resume continues it.

    project: default: the config's name. space: a Space of Hugging Face to show it in; default: this machine.
    """

    libraries = {"trackio": "trackio"}
    background = True

    def __init__(self, project: str | None = None, group: str | None = None, space: str | None = None) -> None:
        self.project, self.group, self.space = project, group, space

    def open(self, run: RunInfo) -> None:
        import trackio

        with contextlib.redirect_stdout(io.StringIO()):
            self.run = trackio.init(
                project=self.project or run.name,
                name=run.folder.name,
                group=self.group,
                space_id=self.space,
                config=run.recorded,
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        log.info(f'trackio: trackio show --project "{self.run.project}"')

    def scalars(self, step: int, epoch: int, split: str, values: Mapping[str, float]) -> None:
        self.run.log({"epoch": epoch, **{f"{split}/{name}": value for name, value in values.items()}}, step=step)

    def image(self, name: str, picture: Tensor, step: int) -> None:
        import trackio

        pixels = (picture * 255).byte().permute(1, 2, 0).numpy()
        self.run.log({name: trackio.Image(np.repeat(pixels, 3, 2) if pixels.shape[2] == 1 else pixels)}, step=step)

    def text(self, name: str, text: str, step: int) -> None:
        import trackio

        self.run.log({name: trackio.Markdown(f"```\n{text}\n```")}, step=step)

    def histogram(self, name: str, values: np.ndarray, step: int) -> None:
        import trackio

        self.run.log({name: trackio.Histogram(np_histogram=np.histogram(values, bins=64))}, step=step)

    def result(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log({f"result/{name}": value for name, value in values.items()}, step=step)

    def catch_up(self, points: Sequence[Mapping[str, Any]]) -> None:
        import trackio

        if self.space is not None:  # cannot be read from here: what is in the last seconds' buffer, and more
            missing: Sequence[Mapping[str, Any]] = points[-100:]
        else:
            logs = trackio.SQLiteStorage.get_logs(self.run.project, self.run.name)
            missing = lacking(points, lambda key: {entry["step"] for entry in logs if key in entry})
        for point in missing:
            send(self, point)

    def close(self) -> None:
        import trackio

        with contextlib.redirect_stdout(io.StringIO()):
            trackio.finish()
