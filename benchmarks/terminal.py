"""A terminal of a given width in which a command runs, by tmux, as a page for a browser. For screenshots.py."""

import html
import re
import subprocess
import time
from pathlib import Path

ROWS = 60
THEMES = {"dark": ("#16181c", "#e6e6e6"), "light": ("#ffffff", "#1a1a1a")}  # background, text
PATIENCE = 180  # seconds
LINE, LETTER, MARGIN = 18, 8.43, 12  # pixels
STYLE = f"margin:{MARGIN}px;font:14px/{LINE}px 'DejaVu Sans Mono','Noto Sans Mono CJK KR',monospace"


class Terminal:
    """A shell, `columns` wide, to `type` a command in; `text` is what it shows."""

    def __init__(self, folder: Path, columns: int) -> None:
        self.name = f"pictures-{columns}"
        tmux("new-session", "-d", "-s", self.name, "-x", str(columns), "-y", str(ROWS), "-c", str(folder), "sh")
        self.type("PS1='$ '; clear")
        time.sleep(1)

    def type(self, command: str) -> None:
        tmux("send-keys", "-t", self.name, command, "Enter")

    def text(self) -> str:
        return tmux("capture-pane", "-t", self.name, "-p").rstrip()

    def wait_for(self, pattern: str) -> str:
        """What it shows as soon as this is there."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if re.search(pattern, text := self.text()):
                return text
            time.sleep(0.02)
        raise TimeoutError(f"'{pattern}' did not appear within {PATIENCE} s:\n{self.text()}")

    def close(self) -> None:
        tmux("kill-session", "-t", self.name)


def tmux(*args: str) -> str:
    """On a server of its own, so that no other session is touched."""
    command = ["tmux", "-L", "pictures", "-f", "/dev/null", *args]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def page(text: str, columns: int, theme: str) -> tuple[str, int, int]:
    """The text as HTML, with the width and height of its picture."""
    back, ink = THEMES[theme]
    body = f'<body style="background:{back};color:{ink};{STYLE}"><pre style="margin:0;font:inherit">'
    width, height = round(LETTER * columns), LINE * (text.count("\n") + 1)
    source = f"<!doctype html><meta charset=utf-8>{body}{html.escape(text)}</pre>"
    return source, width + 2 * MARGIN, height + 2 * MARGIN
