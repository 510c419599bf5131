"""Plots granted calls and quota over time as SVG."""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Callable, Iterator, Sequence

COLUMNS = 2
PANEL = (470, 210)
PLOT = (50, 34, 405, 142)  # left, top, width, height within a panel
HEAD = 46
INK, FAINT, GRID = "#1f2933", "#66727f", "#e4e8ec"
QUOTA, REFUSED = "#8a94a0", "#d1495b"
FONT = 'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif" font-size="11"'
LINES = ("#1769aa", "#2a9d8f", "#e09f3e", "#7b4fa3")


@dataclasses.dataclass(frozen=True, slots=True)
class Panel:
    """One panel of the plot, with one value per second.

    Attributes:
        title: Title.
        quota: Quota per second.
        granted: Granted calls per second, one row for each line.
        refused: Refused calls per second.
    """

    title: str
    quota: Sequence[float]
    granted: Sequence[Sequence[float]]
    refused: Sequence[float]


def draw(panels: Sequence[Panel], caption: str) -> str:
    """Return the panels as an SVG document."""
    width = COLUMNS * PANEL[0]
    height = HEAD + math.ceil(len(panels) / COLUMNS) * PANEL[1]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {FONT}>',
        f"<title>{html.escape(caption)}</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        *_legend(caption),
    ]
    for index, panel in enumerate(panels):
        row, column = divmod(index, COLUMNS)
        parts.append(f'<g transform="translate({column * PANEL[0]} {HEAD + row * PANEL[1]})">')
        parts += _panel(panel)
        parts.append("</g>")
    return "\n".join([*parts, "</svg>", ""])


def _legend(caption: str) -> Iterator[str]:
    yield f'<text x="{PLOT[0]}" y="26" font-size="14" font-weight="600" fill="{INK}">{html.escape(caption)}</text>'
    x = COLUMNS * PANEL[0] - 270
    for label, color, step in (("quota", QUOTA, 68), ("granted", LINES[0], 82), ("refused (429)", REFUSED, 0)):
        dash = ' stroke-dasharray="5 3"' if label == "quota" else ""
        yield f'<line x1="{x}" y1="22" x2="{x + 20}" y2="22" stroke="{color}" stroke-width="2.5"{dash}/>'
        yield f'<text x="{x + 26}" y="26" fill="{FAINT}">{label}</text>'
        x += step


def _panel(panel: Panel) -> Iterator[str]:
    left, top, width, height = PLOT
    seconds = len(panel.quota)
    highest = max(max(panel.quota), *(max(row) for row in panel.granted)) * 1.08
    tick = _tick(highest)

    def x(second: float) -> float:
        return left + width * second / seconds

    def y(value: float) -> float:
        return top + height * (1 - min(value, highest) / highest)

    title = html.escape(panel.title)
    yield f'<text x="{left}" y="{top - 12}" font-size="12" font-weight="600" fill="{INK}">{title}</text>'
    for step in range(int(highest / tick) + 1):
        value = step * tick
        yield f'<line x1="{left}" y1="{y(value):.1f}" x2="{left + width}" y2="{y(value):.1f}" stroke="{GRID}"/>'
        yield f'<text x="{left - 6}" y="{y(value) + 4:.1f}" text-anchor="end" fill="{FAINT}">{value:,.0f}</text>'
    for second in range(0, seconds + 1, max(1, int(_tick(seconds)))):
        unit = " s" if second == 0 else ""
        yield (
            f'<text x="{x(second):.1f}" y="{top + height + 16}" text-anchor="middle" fill="{FAINT}">'
            f"{second}{unit}</text>"
        )
    bars = "".join(
        f"M{x(second):.1f} {y(0):.1f}V{y(count):.1f}H{x(second + 1):.1f}V{y(0):.1f}Z"
        for second, count in enumerate(panel.refused)
        if count
    )
    if len(panel.granted) == 1:
        line = _line(panel.granted[0], x, y)
        yield f'<path d="{line}V{y(0):.1f}H{x(0):.1f}Z" fill="{LINES[0]}" fill-opacity="0.14"/>'
    for row, color in zip(panel.granted, LINES, strict=False):
        yield f'<path d="{_line(row, x, y)}" fill="none" stroke="{color}" stroke-width="1.5"/>'
    yield f'<path d="{bars}" fill="{REFUSED}"/>'
    most = max(panel.refused, default=0.0)
    if most > highest:  # truncated: show the value
        at = x(max(second for second, count in enumerate(panel.refused) if count > highest) + 1)
        yield f'<text x="{at + 6:.1f}" y="{top + 10}" fill="{REFUSED}">↑ {most:,.0f} refused</text>'
    yield (
        f'<path d="{_line(panel.quota, x, y)}" fill="none" stroke="{QUOTA}" stroke-width="1.5" stroke-dasharray="5 3"/>'
    )


def _line(values: Sequence[float], x: Callable[[float], float], y: Callable[[float], float]) -> str:
    points = [f"{x(second):.1f} {y(value):.1f}H{x(second + 1):.1f}" for second, value in enumerate(values)]
    return "M" + "L".join(points)


def _tick(highest: float) -> float:
    """Return a round step that divides the axis into three to seven parts."""
    power = 10.0 ** math.floor(math.log10(highest / 3))
    return max(step * power for step in (1, 2, 2.5, 5, 10) if step * power <= highest / 3)
