"""A distribution in one line of a table: its histogram along an axis that all lines of the table share.

Positions are percentages, so that the page stretches a strip to any width, and a strip is the same size for ten values
as for ten thousand.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_BINS = 60
_HEIGHT = 20  # units of a strip's own coordinates; the page scales them


@dataclass(frozen=True, slots=True)
class Scale:
    """An axis from `low` to `high`; logarithmic unless `linear`. Raises ValueError if it has no extent."""

    low: float
    high: float
    linear: bool = False

    def __post_init__(self) -> None:
        if not (self.low < self.high and (self.linear or self.low > 0)):
            raise ValueError(f"a scale from {self.low} to {self.high} has no extent that can be drawn")

    def at(self, value: float) -> float:
        """Where `value` lies, 0 to 100; what is beyond an end, NaN too, lies at that end."""
        if math.isnan(value):
            return 100.0
        value = min(max(value, self.low), self.high)
        if self.linear:
            return 100 * (value - self.low) / (self.high - self.low)
        return 100 * math.log(value / self.low) / math.log(self.high / self.low)

    @property
    def ticks(self) -> tuple[tuple[float, str], ...]:
        """Where to write which number: both ends and the middle of a linear axis, powers of ten of another."""
        if self.linear:
            values = [self.low, (self.low + self.high) / 2, self.high]
        else:
            exponents = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
            values = [10.0**exponent for exponent in exponents]
        return tuple((self.at(value), f"{value:,.3g}" if abs(value) < 1000 else f"{value:.0e}") for value in values)


@dataclass(frozen=True, slots=True)
class Strip:
    """One drawn distribution.

    path    the histogram's outline as SVG path data, in a box 100 wide and 20 high; empty without a value
    median  where the median lies, 0 to 100; None without a value
    marks   where single values stand out that the reader must not miss, 0 to 100, close ones merged
    """

    path: str
    median: float | None
    marks: tuple[float, ...]


def strip(ascending: Sequence[float], marked: Iterable[float], scale: Scale) -> Strip:
    """Draw values in ascending order, and mark those in `marked`."""
    marks = tuple(sorted({round(scale.at(value)) for value in marked}))
    if not ascending:
        return Strip("", None, marks)
    counts = Counter(min(int(scale.at(value) / 100 * _BINS), _BINS - 1) for value in ascending)
    # What gathers at an end of the axis, exact results above all, must not flatten what lies between.
    highest = max((count for place, count in counts.items() if 0 < place < _BINS - 1), default=0)
    return Strip(bars(counts, _BINS, highest), round(scale.at(ascending[len(ascending) // 2]), 1), marks)


def bars(counts: Counter[int], bins: int, highest: int = 0) -> str:
    """SVG path data of `bins` bars; one value still shows beside ten thousand.

    `highest` is the count that fills the height, the largest one if not given; what is above it is cut off there.
    """
    highest = highest or max(counts.values(), default=0)
    width = 100 / bins
    pieces = []
    for place, count in sorted(counts.items()):
        if count:
            height = min(max(1.6, _HEIGHT * count / highest), _HEIGHT)
            pieces.append(f"M{place * width:.4g} {_HEIGHT}v-{height:.3g}h{width:.3g}v{height:.3g}")
    return "".join(pieces)
