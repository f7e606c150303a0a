from pathlib import Path

import pytest

from tests.trainer.checkpoint.harness import House, config


@pytest.fixture
def house(tmp_path: Path) -> House:
    """An empty house with the plain config."""
    return House(tmp_path / "house", config())
