"""Starts a run in several processes of this machine, and returns its result."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer.engine.result import RESULT_FILE, Result
from utils.process import launch
from utils.run_folder import Run


def start(count: int, script: str, arguments: Sequence[str]) -> Result:
    """Run `python script arguments` in `count` processes."""
    with tempfile.TemporaryDirectory(prefix="groundwork-") as folder:
        file = Path(folder, "result.json")
        os.environ[RESULT_FILE] = str(file)
        try:
            code = launch.start(count, [script, *arguments])
        finally:
            del os.environ[RESULT_FILE]
        return Result.read(file, code)


def start_run(count: int, script: str, config: Any, run: Run, devices: str | None) -> Result:
    """Run this config in `count` processes, each of which reads it from a file."""
    with tempfile.TemporaryDirectory(prefix="groundwork-") as folder:
        file = Path(folder, "config.yaml")
        file.write_text(config.to_yaml(), encoding="utf-8")
        arguments = ["-c", str(file), *(["-d", devices] if devices else [])]
        if run.exists:
            arguments += ["-r", str(run.checkpoint or run.folder)]
        elif not run.timed:
            arguments += ["--run-id", run.folder.name]
        return start(count, script, arguments)
