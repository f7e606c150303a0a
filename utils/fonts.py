"""A font of this machine for names that the built-in ones cannot draw: Korean, Chinese, Japanese."""

import functools
from typing import Any

WIDE = "\u1100"  # from here on: the first Korean letter
NAMES = (
    "NotoSansCJK-Regular.ttc", "NotoSansKR-Regular.otf", "NanumGothic.ttf",  # Linux
    "malgun.ttf", "msyh.ttc",  # Windows
    "AppleSDGothicNeo.ttc", "Arial Unicode.ttf",  # macOS
)  # fmt: skip


def is_wide(text: str) -> bool:
    """Does it hold a letter that needs such a font? Signs such as ✓ and … do not."""
    return any(letter >= WIDE and letter.isalpha() for letter in text)


@functools.cache
def wide(size: int) -> Any:
    """The first of NAMES that is here, as PIL's font; None if none is."""
    from PIL import ImageFont

    for name in NAMES:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return None


def use_in(figure: Any, size: int) -> None:
    """Draw the texts of a figure of matplotlib that need it in that font, if it is here."""
    from matplotlib.text import Text

    texts = [text for text in figure.findobj(Text) if is_wide(text.get_text())]
    if texts and (font := wide(size)) is not None:
        _add(str(font.path))
        for text in texts:
            text.set_family([*text.get_family(), font.getname()[0]])


@functools.cache
def _add(path: str) -> None:
    """Once for each font: matplotlib's list of them grows with every call."""
    from matplotlib import font_manager

    font_manager.fontManager.addfont(path)
