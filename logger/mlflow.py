"""MLflow, in a database on this machine or on a server. `mlflow server` shows it (of the package mlflow)."""

import logging
import os
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from logger.console import log
from logger.flat import flat
from logger.writer import RunInfo, Writer, id_of, lacking, send

TAG = "groundwork.id"  # by which a resume finds the run
PARAMS_AT_ONCE, LONGEST = 100, 6000  # limits of MLflow: parameters in a call, characters of a value


class MLflow(Writer):
    """Metrics as train/NAME and valid/NAME, the config as parameters. A resumed run continues the same MLflow run.

    uri: such as http://server:5000 or sqlite:///mlflow.db; default: MLFLOW_TRACKING_URI, or what MLflow has as default.
    experiment: default: the config's name.
    """

    libraries = {"mlflow": "mlflow"}
    background = True

    def __init__(
        self, uri: str | None = None, experiment: str | None = None, tags: Mapping[str, str] | None = None
    ) -> None:
        self.uri, self.experiment, self.tags = uri, experiment, tags or {}

    def open(self, run: RunInfo) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # background.py tries again
        from mlflow import MlflowClient
        from mlflow.entities import Param

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        self.client = MlflowClient(self.uri)
        name, id = self.experiment or run.name, id_of(run.folder)
        experiment = self.client.get_experiment_by_name(name)
        place = experiment.experiment_id if experiment else self.client.create_experiment(name)
        found = self.client.search_runs([place], f"tags.`{TAG}` = '{id}'")
        if found:
            self.run_id, known = found[0].info.run_id, found[0].data.params
            self.client.update_run(self.run_id, status="RUNNING")
        else:
            tags = {**self.tags, TAG: id, "folder": str(run.folder), "command": run.command}
            self.run_id = self.client.create_run(place, run_name=run.folder.name, tags=tags).info.run_id
            known = {}
        params = [(_name(key), str(value)[:LONGEST]) for key, value in flat(run.config).items()]
        entities = [Param(key, value) for key, value in params if key not in known]
        for start in range(0, len(entities), PARAMS_AT_ONCE):
            self.client.log_batch(self.run_id, params=entities[start : start + PARAMS_AT_ONCE])
        log.info(f"MLflow: run {self.run_id} of experiment {name}")

    def scalars(self, step: int, epoch: int, split: str, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        points = [Metric(_name(f"{split}/{name}"), float(value), now, step) for name, value in values.items()]
        self.client.log_batch(self.run_id, metrics=points)

    def image(self, name: str, picture: Tensor, step: int) -> None:
        pixels = (picture * 255).byte().permute(1, 2, 0).numpy()
        self.client.log_image(self.run_id, pixels, artifact_file=f"{name}/step{step:07}.png")

    def text(self, name: str, text: str, step: int) -> None:
        self.client.log_text(self.run_id, text, f"{name}/step{step:07}.txt")

    def result(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.client.log_metric(self.run_id, _name(f"result/{name}"), float(value), step=step)

    def catch_up(self, points: Sequence[Mapping[str, Any]]) -> None:
        def steps_of(key: str) -> set[int]:
            return {metric.step for metric in self.client.get_metric_history(self.run_id, _name(key))}

        for point in lacking(points, steps_of):
            send(self, point)

    def close(self) -> None:
        self.client.set_terminated(self.run_id)


def _name(text: str) -> str:
    """Without the characters that MLflow does not take."""
    return re.sub(r"[^\w\-. /:]", "_", text)
