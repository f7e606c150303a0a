"""Pictures of what TensorBoard shows of two small runs, in docs/images. Needs Chromium (apt-get install chromium).

    python -m benchmarks.screenshots [--folder docs/images]

Trains config/digits.yaml twice with the callbacks that show something, tests the first, and starts TensorBoard here.
"""

import argparse
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CALLBACKS = (
    "callbacks=[ConfusionMatrix, Mistakes, Predictions, PerClassAccuracy, PRCurves, "
    "{type: Embeddings, args: {samples: 300}}, {type: Histograms, args: {every: 19}}]"
)
VIEWS = {  # picture -> what comes after the address; width, height
    "tensorboard-scalars": ("#scalars&tagFilter=%5E(loss%7Caccuracy%7Clr)%24", 1200, 800),
    "tensorboard-images": ("#images", 1200, 960),
    "tensorboard-histograms": ("#histograms&tagFilter=0.weight", 1200, 800),
    "tensorboard-projector": ("#projector", 1200, 800),
    "tensorboard-hparams": ("#hparams", 1900, 420),
}
COLORS = 128  # of the palette that the pictures are reduced to
PATIENCE = 60  # seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "docs/images")
    args = parser.parse_args()
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        print("error: no Chromium here; apt-get install chromium, or run this where there is one", file=sys.stderr)
        return 2
    args.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        train(Path(folder))
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "tensorboard.main", "--logdir", "saved", "--port", str(port)]
        server = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for(f"http://localhost:{port}/data/runs")
            for name, (view, width, height) in VIEWS.items():
                path = args.folder / f"{name}.png"
                shoot(browser, f"http://localhost:{port}/{view}", path, width, height)
                print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")
        finally:
            server.terminate()
            server.wait()
    return 0


def train(folder: Path) -> None:
    """Two runs with different learning rates, the first with a test result."""
    for rate in ("0.003", "0.0003"):
        run = [f"optimizer.args.lr={rate}", "--run-id", f"lr-{rate}", "trainer.epochs=8", "trainer.log_steps=5"]
        done(folder, "train.py", "-c", str(ROOT / "config/digits.yaml"), CALLBACKS, *run)
    done(folder, "test.py", "-r", "saved/digits/lr-0.003")


def done(folder: Path, script: str, *args: str) -> None:
    subprocess.run([sys.executable, str(ROOT / script), *args], cwd=folder, check=True, stdout=subprocess.DEVNULL)


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


def shoot(browser: str, address: str, path: Path, width: int, height: int) -> None:
    with tempfile.TemporaryDirectory() as profile:
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--user-data-dir={profile}", f"--window-size={width},{height}", "--virtual-time-budget=25000"]
        command += [f"--screenshot={path.absolute()}", address]
        subprocess.run(command, check=True, capture_output=True, timeout=2 * PATIENCE)
    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(COLORS, method=Image.Quantize.MEDIANCUT)
    small.save(path, optimize=True)


if __name__ == "__main__":
    sys.exit(main())
