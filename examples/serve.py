"""A web page on which a run predicts, for images, recordings, tables and texts. Needs: make extra NAME=serve

    python -m examples.serve -r saved/digits/RUN

Then open http://127.0.0.1:8000. Only this machine can; --host 0.0.0.0 lets others, and there is no password. From a
program: curl --data-binary @1.png 'http://127.0.0.1:8000/predict?name=1.png'
"""

import argparse
import html
import tempfile
import threading
from pathlib import Path
from typing import Any

import torch
from fastapi import FastAPI, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse

from trainer.inference import Predictions, Predictor
from utils.errors import Stopped, UsageError

LARGEST = 50 * 2**20  # bytes of a file
SHOWN = 5  # classes
PAGE = """<!doctype html><meta charset="utf-8"><title>NAME</title>
<style>
body {font: 18px sans-serif; max-width: 32em; margin: 3em auto} td {padding: 0 1em 0 0} img {max-width: 16em}
</style>
<h1>NAME</h1>
<p><input type="file" id="file"></p>
<p><input type="text" id="text" size="40" placeholder="or a sentence, for a model of texts"></p>
<img id="image" hidden><table id="found"></table>
<script>
const show = async (body, name) => {
  const answer = await fetch("/predict?name=" + encodeURIComponent(name), {method: "POST", body})
  const found = await answer.json(), table = document.getElementById("found")
  let rows = [["error", found.detail]]
  if (answer.ok && found.labels.length > 1) rows = found.labels.map((label, i) => [i + 1, label])
  else if (answer.ok) rows = Object.entries(found.outputs).sort((a, b) => b[1] - a[1])
  table.replaceChildren()
  for (const cells of rows) {
    const row = table.insertRow()
    for (const cell of cells) row.insertCell().textContent = typeof cell === "number" ? +cell.toFixed(4) : cell
  }
}
document.getElementById("file").onchange = e => {
  const file = e.target.files[0], image = document.getElementById("image")
  image.hidden = !file.type.startsWith("image/")
  image.src = image.hidden ? "" : URL.createObjectURL(file)
  show(file, file.name)
}
document.getElementById("text").onchange = e => show(e.target.value, "")
</script>"""


def app_of(run: str) -> FastAPI:
    predictor, lock, app = Predictor(run), threading.Lock(), FastAPI(title=run)

    def predict(body: bytes, name: str) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder, lock:
            # A sentence goes into a file too: it must not be taken for the path of a file of this machine
            path = Path(folder, f"file{Path(name).suffix[:16]}" if name else "1.txt")
            # of a sentence UTF-16, whose mark says so to a loader of any encoding
            path.write_bytes(body if name else body.decode(errors="replace").encode("utf-16"))
            try:
                found = predictor([str(path) if name else folder])
            except (UsageError, Stopped) as e:
                raise HTTPException(400, str(e).replace(str(path), name or "the text").replace(folder, "it")) from e
        best = sorted(named_outputs(found).items(), key=lambda item: -item[1])[:SHOWN]
        return {"labels": found.labels, "outputs": dict(best)}

    @app.get("/", response_class=HTMLResponse)
    def page() -> str:
        return PAGE.replace("NAME", html.escape(predictor.source.config.run.name))

    @app.post("/predict")
    async def answer(request: Request, name: str = "") -> dict[str, Any]:
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > LARGEST:
                raise HTTPException(413, f"the file is larger than {LARGEST // 2**20} MB")
        return await run_in_threadpool(predict, bytes(body), name)

    return app


def named_outputs(found: Predictions) -> dict[str, float]:
    """Of the first sample: probabilities or values; of a segmentation, the share of the pixels of each class."""
    first = torch.atleast_1d(found.outputs[0])
    if len(first) == 1 and len(found.class_names) == 2:  # one output: the probability of the second class
        first = torch.cat([1 - first, first])
    if first.dim() == 3:
        classes = first.argmax(dim=0).flatten()
        first = classes.bincount(minlength=len(first)) / len(classes)
    return dict(zip(found.class_names, first.reshape(-1).tolist(), strict=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-r", "--run", required=True, help="a run's folder, a checkpoint, or a file of export.py")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    args = parser.parse_args()
    import uvicorn

    uvicorn.run(app_of(args.run), host=args.host, port=args.port)


if __name__ == "__main__":
    main()
