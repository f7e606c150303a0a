"""A chart of curves as SVG: no library, and colors that follow the page's light or dark theme."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from logger.report.runs import Curve

WIDTH, HEIGHT = 460, 280
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 30, 40
POINTS = 200  # per curve: more would not be visible
FAR = 5.0  # a value this many times beyond the middle 90% of all is cut off


@dataclass
class Line:
    curve: Curve
    color: int  # number in the page's palette
    label: str
    dashed: bool = False  # of training


def chart(title: str, lines: Sequence[Line]) -> str:
    """Curves over the step. A diverged run does not flatten the others: what is far off is cut off at the edge."""
    lines = [Line(thinned(line.curve), line.color, line.label, line.dashed) for line in lines if line.curve]
    if not lines:
        return ""
    last = max(step for line in lines for step, _ in line.curve)
    low, high, cut = limits([value for line in lines for _, value in line.curve])
    x_ticks, y_ticks = [tick for tick in ticks(0, last) if tick <= last], ticks(low, high)
    low, high = min(low, y_ticks[0]), max(high, y_ticks[-1])

    def x(step: float) -> float:
        return LEFT + step / max(last, 1) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return TOP + (high - min(max(value, low), high)) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)} over the step">']
    parts.append(
        f'<text class="title" x="{LEFT}" y="18">{escape(title)}{" (far values cut off)" if cut else ""}</text>'
    )
    for value in y_ticks:
        parts.append(f'<path class="grid" d="M{LEFT} {y(value):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(
            f'<text class="tick" text-anchor="end" x="{LEFT - 6}" y="{y(value) + 4:.1f}">{label(value)}</text>'
        )
    for value in x_ticks:
        parts.append(
            f'<text class="tick" text-anchor="middle" x="{x(value):.1f}" y="{HEIGHT - 22}">{label(value)}</text>'
        )
    parts.append(
        f'<text class="tick" text-anchor="middle" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 4}">step</text>'
    )
    for line in sorted(lines, key=lambda line: -line.color):  # the best setting on top
        path = "L".join(f"{x(step):.1f} {y(value):.1f}" for step, value in line.curve)
        kind = f"c{line.color} train" if line.dashed else f"c{line.color}"
        dot = "h.01" if len(line.curve) == 1 else ""  # a single point is drawn as a dot
        parts.append(f'<path class="line {kind}" d="M{path}{dot}"><title>{escape(line.label)}</title></path>')
    return "\n".join([*parts, "</svg>"])


def thinned(curve: Curve) -> Curve:
    """At most POINTS points, the last among them; each is the mean of those that it replaces."""
    size = math.ceil(len(curve) / POINTS)
    if size <= 1:
        return curve
    groups = [curve[max(0, end - size) : end] for end in range(len(curve), 0, -size)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in reversed(groups)]


def limits(values: Sequence[float]) -> tuple[float, float, bool]:
    """The range to show, and whether something is outside of it."""
    ordered = sorted(values)
    low, high = ordered[0], ordered[-1]
    low_5, high_95 = ordered[len(ordered) // 20], ordered[-1 - len(ordered) // 20]
    spread = high_95 - low_5
    shown = max(low, low_5 - FAR * spread), min(high, high_95 + FAR * spread)
    if spread > 0 and shown != (low, high):
        return *shown, True
    if low == high:
        half = abs(low) / 10 or 0.5
        return low - half, high + half, False
    return low, high, False


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers, about `count` of them, that cover low to high."""
    raw = (high - low) / count or 1.0
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    return [i * step for i in range(math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9) + 1)]


def label(value: float) -> str:
    if value and (abs(value) >= 1e5 or abs(value) < 1e-3):
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.4g}"
