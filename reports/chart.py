"""A chart of several series over the same few columns, as bars side by side or as lines: where everything is drawn.

Coordinates are those of a small picture that a page scales as a whole, text too; a template writes them as SVG. A chart
is looked at for the shape of things; the table beside it has the figures.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from fa2verify.reports.strip import Scale

WIDTH = 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 42, 4, 20, 18
_WIDEST = 22  # of a bar; one bar alone need not fill the picture
_GROUP = 0.84  # share of a column that its bars take
_TICKS = 4  # intervals of a linear axis, at most
_LINES_FROM_BARS = 10.0  # a logarithmic axis is at least so long

_COLOURS = 9  # that the style sheet has

Kind = Literal["bars", "lines"]


@dataclass(frozen=True, slots=True)
class Tick:
    """A number or word at a place of an axis."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Series:
    """What is drawn for one name: SVG path data of its bars, or of its line and of the points on it."""

    name: str
    path: str
    points: str = ""


@dataclass(frozen=True, slots=True)
class Chart:
    """One picture, `WIDTH` wide.

    unit     of the values
    left, right  where columns begin and end
    columns  below each column its name
    ticks    values of the axis
    series   in the order in which bars stand
    limit    path data of dashed lines: what a column's values are to be read against; empty if there is nothing
    """

    unit: str
    kind: Kind
    height: int
    columns: tuple[Tick, ...]
    ticks: tuple[Tick, ...]
    series: tuple[Series, ...]
    limit: str
    left: int = _LEFT
    right: int = WIDTH - _RIGHT
    width: int = WIDTH

    @property
    def base(self) -> int:
        """Where the lowest value lies."""
        return self.height - _BOTTOM


def bars(
    unit: str,
    columns: Sequence[str],
    series: Mapping[str, Sequence[float | None]],
    limits: Sequence[float | None] = (),
    height: int = 190,
) -> Chart:
    """Bars from zero, a group for each column.

    series  name to a value for each column, not negative; None where there is none, which leaves its place empty
    limits  a value for each column at which a dashed line stands; None where there is none
    """
    values = [value for row in (*series.values(), limits) for value in row if value is not None]
    step = _step(max(values, default=0.0) or 1.0)
    high = step * math.ceil(max(values, default=0.0) / step - 1e-9) or step
    axis = _Axis(Scale(0.0, high, linear=True), height)
    wide = (WIDTH - _LEFT - _RIGHT) / max(len(columns), 1)
    bar = min(_GROUP * wide / max(len(series), 1), _WIDEST)

    def begin(column: int) -> float:
        return _LEFT + (column + 0.5) * wide - bar * len(series) / 2

    def drawn(place: int, row: Sequence[float | None]) -> str:
        pieces = []
        for column, value in enumerate(row):
            if value is not None:
                rise = axis.base - axis.y(value)
                x = begin(column) + place * bar
                pieces.append(f"M{x:.5g} {axis.base}v-{rise:.4g}h{0.9 * bar:.4g}v{rise:.4g}z")
        return "".join(pieces)

    return Chart(
        unit=unit,
        kind="bars",
        height=height,
        columns=tuple(Tick(_LEFT + (at + 0.5) * wide, text) for at, text in enumerate(columns)),
        ticks=tuple(Tick(axis.y(number * step), _number(number * step)) for number in range(round(high / step) + 1)),
        series=tuple(Series(name, drawn(place, row)) for place, (name, row) in enumerate(series.items())),
        limit="".join(
            f"M{_LEFT + column * wide:.5g} {axis.y(value):.4g}h{wide:.5g}"
            for column, value in enumerate(limits)
            if value is not None
        ),
    )


def lines(unit: str, columns: Sequence[str], series: Mapping[str, Sequence[float | None]], height: int = 230) -> Chart:
    """Lines on a logarithmic axis, a point for each column; a value that is not positive, or None, breaks its line."""
    values = [value for row in series.values() for value in row if value is not None and value > 0]
    low = 10.0 ** math.floor(math.log10(min(values, default=1.0)))
    high = 10.0 ** math.ceil(math.log10(max(values, default=1.0)))
    axis = _Axis(Scale(low, max(high, low * _LINES_FROM_BARS)), height)
    wide = (WIDTH - _LEFT - _RIGHT) / max(len(columns), 1)

    def drawn(row: Sequence[float | None]) -> tuple[str, str]:
        line, points, pen = [], [], "M"
        for column, value in enumerate(row):
            if value is None or value <= 0:
                pen = "M"
                continue
            at = f"{_LEFT + (column + 0.5) * wide:.5g} {axis.y(value):.4g}"
            line.append(f"{pen}{at}")
            points.append(f"M{at}h0")  # a round cap makes a dot of it
            pen = "L"
        return "".join(line), "".join(points)

    return Chart(
        unit=unit,
        kind="lines",
        height=height,
        columns=tuple(Tick(_LEFT + (at + 0.5) * wide, text) for at, text in enumerate(columns)),
        ticks=tuple(Tick(axis.y(value), _number(value)) for value in _powers(axis.scale)),
        series=tuple(Series(name, *drawn(row)) for name, row in series.items()),
        limit="",
    )


def colours(names: Iterable[str]) -> dict[str, int]:
    """Name to the number of its colour, in turn; from the tenth name on they repeat."""
    return {name: number % _COLOURS for number, name in enumerate(names)}


@dataclass(frozen=True, slots=True)
class _Axis:
    scale: Scale
    height: int

    @property
    def base(self) -> int:
        return self.height - _BOTTOM

    def y(self, value: float) -> float:
        return self.of(self.scale.at(value))

    def of(self, percent: float) -> float:
        return self.base - percent / 100 * (self.base - _TOP)


def _powers(scale: Scale) -> tuple[float, ...]:
    first, last = (round(math.log10(end)) for end in (scale.low, scale.high))
    return tuple(10.0**power for power in range(first, last + 1))


def _number(value: float) -> str:
    """A number of an axis, in thousands or millions where it would be long."""
    for unit, letter in ((1e6, "M"), (1e3, "k")):
        if value >= 10 * unit or (letter == "M" and value >= unit):
            return f"{value / unit:,.4g}{letter}"
    return f"{value:,.4g}" if value < 1e3 else f"{value:,.0f}"


def _step(highest: float) -> float:
    """The least of 1, 2, 2.5, 5 times a power of ten of which `_TICKS` reach `highest`."""
    power = 10.0 ** math.floor(math.log10(highest / _TICKS))
    return next(power * part for part in (1.0, 2.0, 2.5, 5.0, 10.0) if _TICKS * power * part >= highest * (1 - 1e-9))
