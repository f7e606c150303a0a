"""examples/serve.py answers real requests."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT
from tests.tiny import Tiny, tiny

__all__ = ["tiny"]


def test_serve(tiny: Tiny, tmp_path: Path) -> None:
    for name in ("fastapi", "httpx"):
        pytest.importorskip(name, reason="needs fastapi: make extra NAME=serve")
    from fastapi.testclient import TestClient

    from examples.serve import app_of
    from trainer.inference import predict

    tiny.train("trainer.epochs=4")
    with np.load(ROOT / "data_loader/digits/digits.npz") as file:
        image = file["images"][1500].astype(np.float64)
    Image.fromarray((image / 16 * 255).astype(np.uint8)).save(tmp_path / "1.png")
    client = TestClient(app_of(str(tiny.folder / "run")))
    assert "<h1>tiny</h1>" in client.get("/").text
    expected = predict(tiny.folder / "run", tmp_path / "1.png")
    for _ in range(2):
        answer = client.post("/predict?name=1.png", content=(tmp_path / "1.png").read_bytes())
        assert answer.status_code == 200
        assert answer.json()["label"] == expected.labels[0]
        assert answer.json()["outputs"][expected.labels[0]] == pytest.approx(expected.outputs.max().item())
    broken = client.post("/predict?name=1.png", content=b"no image")
    assert broken.status_code == 400
    assert "not an image that Pillow can read" in broken.json()["detail"]
    assert client.post("/predict?name=1.exe", content=b"x").status_code == 400
