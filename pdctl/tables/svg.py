"""Charts as SVG text: lines, bars and points on two axes. Pure: numbers in, markup out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 16, 44
LETTER_PX = 6.5


@dataclass(frozen=True)
class Series:
    """Points in drawing order. kind: the CSS class that colours it."""

    name: str
    points: Sequence[tuple[float, float]]
    kind: str


@dataclass(frozen=True)
class Limit:
    """A value on an axis that a dashed line marks: an SLO, the rate asked about."""

    axis: Literal["x", "y"]
    value: float | None
    name: str


@dataclass(frozen=True)
class Axes:
    """The titles of both axes; a chart starts at 0 on both."""

    x: str
    y: str
    x_max: float
    y_max: float

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Pixels of a point."""
        across, up = x / (self.x_max or 1.0), y / (self.y_max or 1.0)
        return (
            round(LEFT + across * (WIDTH - LEFT - RIGHT), 1),
            round(HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM), 1),
        )


def line_chart(
    title: str,
    axes: Axes,
    lines: Sequence[Series],
    marks: Sequence[Series],
    limits: Sequence[Limit] = (),
) -> str:
    """Lines, single points with their names, and limits where they lie within the axes."""
    parts = [_frame(axes), *(_limit(axes, limit) for limit in limits)]
    for line in lines:
        pixels = " ".join(f"{x},{y}" for x, y in (axes.at(*p) for p in line.points))
        parts.append(f'<polyline class="line {line.kind}" points="{pixels}"/>')
    for mark in marks:
        parts += [_mark(axes, mark, x, y) for x, y in mark.points]
    return _svg(title, "".join(parts)) + _legend(lines)


def bar_chart(title: str, axes: Axes, names: Sequence[str], bars: Sequence[Series]) -> str:
    """One bar per name; `bars` share the names, x of a point is the index of its name."""
    slot = (WIDTH - LEFT - RIGHT) / max(len(names), 1)
    parts = [_frame(axes, x_ticks=False)]
    for bar in bars:
        for index, value in bar.points:
            x = LEFT + index * slot + slot * 0.15
            _, y = axes.at(0, value)
            height = max(HEIGHT - BOTTOM - y, 0)
            parts.append(
                f'<rect class="bar {bar.kind}" x="{x:.1f}" y="{y:.1f}" '
                f'width="{slot * 0.7:.1f}" height="{height:.1f}">'
                f"<title>{escape(names[int(index)])}: {_number(value)}</title></rect>"
            )
    every = max(1, math.ceil(max((len(n) for n in names), default=1) * LETTER_PX / slot))
    for index, name in enumerate(names):
        if index % every == 0:
            x = LEFT + (index + 0.5) * slot
            parts.append(_text(x, HEIGHT - BOTTOM + 16, name, "middle"))
    return _svg(title, "".join(parts)) + _legend(bars)


def ticks(top: float, most: int = 5) -> list[float]:
    """Round values from 0 up to `top`."""
    if top <= 0 or not math.isfinite(top):
        return [0.0]
    rough = top / most
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * f for f in (1, 2, 5, 10) if unit * f >= rough)
    return [step * i for i in range(int(top / step + 1e-9) + 1)]


def _frame(axes: Axes, *, x_ticks: bool = True) -> str:
    parts = []
    for value in ticks(axes.y_max):
        _, y = axes.at(0, value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(_text(LEFT - 6, y + 4, _number(value), "end"))
    for value in ticks(axes.x_max) if x_ticks else ():
        x, _ = axes.at(value, 0)
        parts.append(_text(x, HEIGHT - BOTTOM + 16, _number(value), "middle"))
    middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
    parts.append(_text(middle, HEIGHT - 8, axes.x, "middle"))
    parts.append(
        f'<text class="label" text-anchor="middle" transform="translate(14 {HEIGHT / 2:.0f}) '
        f'rotate(-90)">{escape(axes.y)}</text>'
    )
    return "".join(parts)


def _limit(axes: Axes, limit: Limit) -> str:
    top = axes.x_max if limit.axis == "x" else axes.y_max
    if limit.value is None or not 0 < limit.value <= top:
        return ""
    if limit.axis == "x":
        x, _ = axes.at(limit.value, 0)
        line = f'<line class="limit" x1="{x}" x2="{x}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        return line + _text(x + 4, TOP + 10, limit.name, "start")
    _, y = axes.at(0, limit.value)
    line = f'<line class="limit" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>'
    return line + _text(WIDTH - RIGHT - 4, y - 4, limit.name, "end")


def _mark(axes: Axes, mark: Series, x: float, y: float) -> str:
    px, py = axes.at(x, y)
    left = px > WIDTH * 0.75
    label = _text(px - 8 if left else px + 8, py - 6, mark.name, "end" if left else "start")
    return f'<circle class="mark {mark.kind}" cx="{px}" cy="{py}" r="5"/>{label}'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return (
        f'<text class="label" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def _svg(title: str, body: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{body}</svg>"
    )


def _legend(series: Sequence[Series]) -> str:
    named = [s for s in series if s.name]
    if not named:
        return ""
    items = "".join(f'<li class="{s.kind}">{escape(s.name)}</li>' for s in named)
    return f'<ul class="legend">{items}</ul>'


def _number(value: float) -> str:
    if value >= 1e6:
        return f"{value / 1e6:g}M"
    if value >= 1e4:
        return f"{value / 1e3:g}k"
    return f"{value:g}" if value >= 100 else f"{value:.3g}"
