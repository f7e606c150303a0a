"""A web page on which a run predicts, for images, recordings, tables and texts. Needs: make extra NAME=serve

    python -m examples.serve -r saved/digits/RUN

Then open http://127.0.0.1:8000. Only this machine can; --host 0.0.0.0 lets others, and there is no password. From a
program: curl --data-binary @1.png 'http://127.0.0.1:8000/predict?name=1.png'
"""

import argparse
import tempfile
import threading
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse

from trainer.inference import Predictor
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
<img id="image"><table id="found"></table>
<script>
const show = async (body, name) => {
  const answer = await fetch("/predict?name=" + encodeURIComponent(name), {method: "POST", body})
  const found = await answer.json(), table = document.getElementById("found")
  table.replaceChildren()
  for (const [label, value] of answer.ok ? Object.entries(found.outputs) : [["error", found.detail]]) {
    const row = table.insertRow()
    row.insertCell().textContent = label
    row.insertCell().textContent = typeof value === "number" ? value.toFixed(4) : value
  }
}
document.getElementById("file").onchange = e => {
  const file = e.target.files[0], image = document.getElementById("image")
  image.src = file.type.startsWith("image/") ? URL.createObjectURL(file) : ""
  show(file, file.name)
}
document.getElementById("text").onchange = e => show(e.target.value, "")
</script>"""


def app_of(run: str) -> FastAPI:
    predictor, lock, app = Predictor(run), threading.Lock(), FastAPI(title=run)

    def predict(body: bytes, name: str) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder, lock:
            data = body.decode(errors="replace")
            if name:
                data = str(Path(folder, f"file{Path(name).suffix}"))
                Path(data).write_bytes(body)
            found = predictor([data])
        outputs = dict(zip(found.class_names, found.outputs[0].reshape(-1).tolist(), strict=False))
        best = sorted(outputs.items(), key=lambda item: -item[1])[:SHOWN]
        return {"label": found.labels[0], "outputs": dict(best)}

    @app.get("/", response_class=HTMLResponse)
    def page() -> str:
        return PAGE.replace("NAME", predictor.source.config.run.name)

    @app.post("/predict")
    async def answer(request: Request, name: str = "") -> dict[str, Any]:
        if int(request.headers.get("content-length", 0)) > LARGEST:
            raise HTTPException(413, f"the file is larger than {LARGEST // 2**20} MB")
        try:
            return await run_in_threadpool(predict, await request.body(), name)
        except (UsageError, Stopped) as e:
            raise HTTPException(400, str(e)) from e

    return app


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
