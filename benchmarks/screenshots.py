"""Pictures of what shows a run, in docs/images: terminal, TensorBoard, figures and report.

    apt-get install chromium tmux
    python -m benchmarks.screenshots [--folder docs/images] [--only terminal report]

Trains config/digits.yaml a few times, tests a run, and starts TensorBoard here.
"""

import argparse
import io
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from benchmarks.terminal import Terminal, page

ROOT = Path(__file__).resolve().parent.parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DIGITS = ROOT / "config/digits.yaml"
CALLBACKS = (
    "callbacks=[ConfusionMatrix, Mistakes, Predictions, PerClassAccuracy, PRCurves, "
    "{type: Embeddings, args: {samples: 300}}, {type: Histograms, args: {every: 19}}]"
)
BEST, OTHER = "lr-0.003", "lr-0.0003"  # the runs
VIEWS = {  # picture -> what comes after the address of TensorBoard; width, height
    "tensorboard-scalars": ("#scalars&tagFilter=%5E(loss%7Caccuracy%7Clr)%24", 1200, 800),
    "tensorboard-images": ("#images&tagFilter=valid", 1200, 960),
    "tensorboard-histograms": ("#histograms&tagFilter=0.weight", 1200, 800),
    "tensorboard-projector": ("#projector", 1200, 800),
    "tensorboard-hparams": ("#hparams", 1900, 420),
}
FIGURES = {  # picture -> what the run calls it
    "confusion-matrix": "test/confusion_matrix",
    "mistakes": "test/most_confident_mistakes",
    "predictions": "valid/predictions",
    "per-class-accuracy": "test/per_class_accuracy",
    "precision-recall": "test/precision_recall",
    "inputs": "train/inputs",
}
# A mistake that people make: the layer after a convolution expects another size
WRONG = "arch={type: Wrong}"
MODEL = """
from torch import nn

class Wrong(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(1, 8, 3)
        self.classifier = nn.Linear(8 * 5 * 5, 10)

    def forward(self, x):
        x = self.convolution(x).relu()
        return self.classifier(x.flatten(1))
"""
LINES, LAST = 34, 10  # of a terminal that are shown; of a traceback, which names the folders of this machine
COLORS = 256  # of the palette that the pictures are reduced to
PATIENCE = 60  # seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "docs/images")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    args = parser.parse_args()
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None or shutil.which("tmux") is None:
        print("error: no Chromium or no tmux here; apt-get install chromium tmux", file=sys.stderr)
        return 2
    args.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        if args.only != ["terminal"]:
            train(Path(folder))
        for part in args.only:
            PARTS[part](Path(folder), args.folder, browser)
    for path in sorted(args.folder.glob("*.png")):
        print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")
    return 0


def train(folder: Path) -> None:
    """Two runs with different learning rates, two seeds of the second, the first with a test result."""
    done(folder, "train.py", *run(BEST), CALLBACKS, "optimizer.args.lr=0.003")
    for seed in (1, 2):
        done(folder, "train.py", *run(f"{OTHER}-seed{seed}"), "optimizer.args.lr=0.0003", f"seed={seed}")
    done(folder, "test.py", "-r", f"saved/digits/{BEST}", "--save", f"saved/digits/{BEST}/outputs.npz")


def run(name: str) -> list[str]:
    return ["-c", str(DIGITS), "--run-id", name, "trainer.epochs=8", "trainer.log_steps=5"]


def done(folder: Path, script: str, *args: str) -> None:
    subprocess.run([sys.executable, str(ROOT / script), *args], cwd=folder, check=True, stdout=subprocess.DEVNULL)


# -- the parts --------------------------------------------------------------------------------------------------------


def terminal(folder: Path, out: Path, browser: str) -> None:
    """A run while it trains and when it is finished, and a mistake: narrow and wide, light and dark."""
    copy = folder / "project"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".venv", ".git", "saved", "data", "docs", "tests", ".*"))
    (copy / "model/wrong.py").write_text(MODEL)
    shots = [
        ("terminal-80-training", 80, "light", "", r"epoch  9/15.*samples/s", LINES),
        ("terminal-160", 160, "dark", "", r"Ctrl-C stops it", LINES),
        ("troubleshooting", 100, "light", f"'{WRONG}'", r"what to try: .*\n(.*\n)*\$", LAST),
    ]
    for name, columns, theme, more, pattern, lines in shots:
        shell = Terminal(copy, columns)
        try:
            shell.type(f"export PATH={os.path.dirname(sys.executable)}:$PATH; clear")
            time.sleep(1)
            shell.type(f"python train.py -c config/digits.yaml {more}".rstrip())
            shown = "\n".join(shell.wait_for(pattern).splitlines()[-lines:])
            source, width, height = page(shown, columns, theme)
        finally:
            shell.close()
        (folder / "page.html").write_text(source, encoding="utf-8")
        shoot(browser, (folder / "page.html").as_uri(), out / f"{name}.png", width, height)


def tensorboard(folder: Path, out: Path, browser: str) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", "saved", "--port", str(port)]
    server = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(f"http://localhost:{port}/data/runs")
        for name, (view, width, height) in VIEWS.items():
            shoot(browser, f"http://localhost:{port}/{view}", out / f"{name}.png", width, height)
    finally:
        server.terminate()
        server.wait()


def figures(folder: Path, out: Path, browser: str) -> None:
    """The newest pictures of the callbacks, as they are in the event files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    place = folder / "saved/digits" / BEST
    for name, tag in FIGURES.items():
        events = EventAccumulator(
            str(place / "test" if tag.startswith("test/") else place), size_guidance={"images": 0}
        )
        picture = Image.open(io.BytesIO(events.Reload().Images(tag)[-1].encoded_image_string))
        small(picture).save(out / f"{name}.png", optimize=True)


def report(folder: Path, out: Path, browser: str) -> None:
    for theme, number in (("light", 1), ("dark", 0)):
        command = [sys.executable, "-m", "logger.report", "saved/digits", "--out", "report.html"]
        path = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, env=path)
        scheme = f"--blink-settings=preferredColorScheme={number}"
        shoot(browser, (folder / "report.html").as_uri(), out / f"report-{theme}.png", 1300, 1080, scheme)


PARTS: dict[str, Callable[[Path, Path, str], None]] = {
    "terminal": terminal,
    "tensorboard": tensorboard,
    "figures": figures,
    "report": report,
}


# -- a picture --------------------------------------------------------------------------------------------------------


def wait_for(address: str) -> None:
    """Until the server has read the runs."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(address) as answer:
                if b"valid" in answer.read():
                    return
        except OSError:
            pass
        time.sleep(0.5)
    raise TimeoutError(f"{address} did not answer within {PATIENCE} s")


def shoot(browser: str, address: str, path: Path, width: int, height: int, *options: str) -> None:
    with tempfile.TemporaryDirectory() as profile:
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *options]
        command += [f"--user-data-dir={profile}", f"--window-size={width},{height}", "--virtual-time-budget=25000"]
        command += [f"--screenshot={path.absolute()}", address]
        subprocess.run(command, check=True, capture_output=True, timeout=2 * PATIENCE)
    with Image.open(path) as picture:
        reduced = small(picture)
    reduced.save(path, optimize=True)


def small(picture: Image.Image) -> Image.Image:
    """With a palette of the colors that it has, or of those that are most like them."""
    picture = picture.convert("RGB")
    if picture.getcolors(COLORS) is not None:
        return picture.quantize(COLORS, dither=Image.Dither.NONE)
    return picture.quantize(COLORS, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)


if __name__ == "__main__":
    sys.exit(main())
