"""Plots as SVG, readable on light and dark: no background, mid-grey text, colours of mid lightness.

Own and small, so that drawing needs nothing installed and equal figures give equal files.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 720, 360
LEFT, RIGHT, TOP, BOTTOM = 64, 130, 36, 44
GREY = "#808080"
COLOURS = ("#4a90d9", "#e08a2c", "#3fa66a", "#c65b8a", "#8f7ad1", "#9c8a3a")
ROW, LABELS = 28, 250
MOST_TICKS = 6
ENOUGH = 1000.0  # beyond this ratio an axis is logarithmic


@dataclass(frozen=True)
class Line:
    """A series of points."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Bar:
    """A bar of parts stacked upon each other."""

    name: str
    parts: dict[str, float]


@dataclass(frozen=True)
class Axis:
    """Maps values to pixels, by their logarithm if they span a lot."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool

    @classmethod
    def of(cls, values: Sequence[float], start: float, end: float, *, spans: float) -> "Axis":
        """Return an axis for these values; logarithmic from a ratio of `spans` on."""
        low, high = min(values), max(values)
        if low > 0 and high / low >= spans:
            bottom, top = math.floor(math.log10(low)), math.ceil(math.log10(high))
            return cls(10.0**bottom, 10.0**top, start, end, logarithmic=True)
        step = nice(high)
        return cls(0.0, math.ceil(high / step) * step or 1.0, start, end, logarithmic=False)

    def at(self, value: float) -> float:
        """Return the pixel of a value."""
        if self.logarithmic:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self) -> list[float]:
        """Return the values that get a mark."""
        if self.logarithmic:
            decades = round(math.log10(self.high / self.low))
            return [self.low * 10**n for n in range(decades + 1)]
        step = nice(self.high)
        return [step * n for n in range(round(self.high / step) + 1)]


def nice(high: float) -> float:
    """Return a round step of which a few make up `high`."""
    if high <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(high))
    steps = (0.1 * power, 0.2 * power, 0.5 * power, power, 2 * power)
    return next(step for step in steps if high / step <= MOST_TICKS)


def lines(title: str, series: Sequence[Line], across: str, up: str) -> str:
    """Draw series of points; nothing if there are none."""
    points = [point for line in series for point in line.points]
    if not points:
        return ""
    x = Axis.of([one for one, _ in points], LEFT, WIDTH - RIGHT, spans=20)
    y = Axis.of([one for _, one in points], HEIGHT - BOTTOM, TOP, spans=ENOUGH / 20)
    drawn = [_text(LEFT, 20, title, bold=True)]
    for tick in y.ticks():
        drawn += [_rule(LEFT, y.at(tick), WIDTH - RIGHT, y.at(tick))]
        drawn += [_text(LEFT - 8, y.at(tick) + 4, f"{tick:,.10g}", anchor="end")]
    for tick in x.ticks():
        drawn += [_text(x.at(tick), HEIGHT - BOTTOM + 18, f"{tick:,.10g}", anchor="middle")]
    drawn.append(_text(WIDTH - RIGHT, HEIGHT - 8, across, anchor="end"))
    drawn.append(_text(LEFT - 8, TOP - 10, up, anchor="end"))
    for number, line in enumerate(series):
        drawn += _series(line, x, y, COLOURS[number % len(COLOURS)])
        drawn += _key(number, line.name)
    return _picture(HEIGHT, drawn)


def bars(title: str, found: Sequence[Bar], unit: str) -> str:
    """Draw horizontal bars, each with its sum; nothing if there are none."""
    if not found:
        return ""
    names = list(dict.fromkeys(part for bar in found for part in bar.parts))
    longest = max(sum(bar.parts.values()) for bar in found)
    x = Axis(0.0, longest or 1.0, LABELS, WIDTH - RIGHT, logarithmic=False)
    drawn = [_text(LABELS, 20, title, bold=True)]
    for row, bar in enumerate(found):
        y, begin = TOP + row * ROW, 0.0
        drawn.append(_text(LABELS - 8, y + 14, bar.name, anchor="end"))
        for part, value in bar.parts.items():
            left, right = x.at(begin), x.at(begin + value)
            colour = COLOURS[names.index(part) % len(COLOURS)]
            size = f'width="{right - left:.1f}" height="{ROW - 8}"'
            drawn.append(f'<rect x="{left}" y="{y}" {size} fill="{colour}"/>')
            begin += value
        drawn.append(
            _text(
                x.at(begin) + 6,
                y + 14,
                f"{begin:,.3g} {unit}" if begin < ENOUGH else f"{begin:,.0f} {unit}",
            )
        )
    height = TOP + len(found) * ROW + 12
    named = [name for name in names if name]
    for number, name in enumerate(named):
        drawn.append(
            _text(LABELS + number * 90, height + 10, name, colour=COLOURS[number % len(COLOURS)])
        )
    return _picture(height + (24 if named else 0), drawn)


def nothing_yet(title: str) -> str:
    """Draw that something was not measured."""
    return _picture(TOP, [_text(LEFT, 20, f"{title}: not measured yet", bold=True)])


def _series(line: Line, x: Axis, y: Axis, colour: str) -> list[str]:
    places = [(x.at(one), y.at(other)) for one, other in line.points]
    path = " ".join(f"{one},{other}" for one, other in places)
    dots = [f'<circle cx="{one}" cy="{other}" r="3" fill="{colour}"/>' for one, other in places]
    return [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>', *dots]


def _key(number: int, name: str) -> list[str]:
    colour = COLOURS[number % len(COLOURS)]
    return [_text(WIDTH - RIGHT + 14, TOP + 14 + number * 20, name, colour=colour)]


def _rule(left: float, top: float, right: float, bottom: float) -> str:
    ends = f'x1="{left}" y1="{top}" x2="{right}" y2="{bottom}"'
    return f'<line {ends} stroke="{GREY}" stroke-opacity="0.3"/>'


def _text(  # noqa: PLR0913 - where, what and how
    x: float, y: float, said: str, *, anchor: str = "start", bold: bool = False, colour: str = GREY
) -> str:
    weight = ' font-weight="bold"' if bold else ""
    place = f'x="{x}" y="{y}" text-anchor="{anchor}" fill="{colour}"'
    return f"<text {place}{weight}>{escape(said)}</text>"


def _picture(height: float, drawn: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="12">'
    )
    return "\n".join([head, *drawn, "</svg>\n"])
