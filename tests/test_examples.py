"""examples/serve.py answers real requests."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import ROOT
from tests.tiny import Tiny, tiny

__all__ = ["tiny"]


@pytest.mark.slow
def test_serve(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("fastapi", "httpx"):
        pytest.importorskip(name, reason="needs fastapi: make extra NAME=serve")
    from fastapi.testclient import TestClient

    from examples import serve
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
        assert answer.json()["labels"] == expected.labels
        assert answer.json()["outputs"][expected.labels[0]] == pytest.approx(expected.outputs.max().item())
    broken = client.post("/predict?name=1.png", content=b"no image")
    assert broken.status_code == 400
    assert "1.png is not an image that Pillow can read" in broken.json()["detail"]
    assert tempfile.gettempdir() not in broken.json()["detail"]
    assert client.post("/predict?name=1.exe", content=b"x").status_code == 400
    path = str(tmp_path / "1.png")
    of_this_machine = client.post("/predict", content=path)  # a sentence, though a file has this name
    assert of_this_machine.status_code == 400
    assert "no files" in of_this_machine.json()["detail"]
    monkeypatch.setattr(serve, "LARGEST", 100)
    assert client.post("/predict?name=1.png", content=bytes(101)).status_code == 413


def test_what_a_page_shows() -> None:
    pytest.importorskip("fastapi", reason="needs fastapi: make extra NAME=serve")
    from examples.serve import named_outputs
    from trainer.inference import Predictions

    def shown(outputs: torch.Tensor, names: list[str]) -> dict[str, float]:
        return named_outputs(Predictions([], outputs, [], names))

    assert shown(torch.tensor([[0.25, 0.75]]), ["a", "b"]) == {"a": 0.25, "b": 0.75}
    assert shown(torch.tensor([0.75]), ["a", "b"]) == {"a": 0.25, "b": 0.75}
    masks = torch.eye(2)[torch.tensor([[0, 0, 0, 1]])].permute(2, 0, 1)[None]  # three pixels of a, one of b
    assert shown(masks, ["a", "b"]) == {"a": 0.75, "b": 0.25}
