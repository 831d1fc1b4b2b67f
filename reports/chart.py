"""The picture of the 2x rule: one strip a kernel, errors in units of PyTorch's own error on a logarithmic axis.

Narrow enough for a phone at its own size, and without a colour of its own: every colour is a CSS variable of the page,
so that light and dark follow the reader. Text stays text, for the reader's font and for search. A failure is a cross
below the strip, so that it shows without colour.
"""

import io
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, LogLocator

from fa2verify.reports.ratios import RULE, Direction, Ratios, quantile
from fa2verify.reports.summary import plural, short

_WIDTH = 340 / 72  # inches; 340 units of the picture, about the text width of a phone 375 CSS pixels wide
_ROW = 0.56  # inches a kernel
_FOOT = 0.55  # inches for the axis and its label
_HEAD = 0.25  # inches for the line's label
_FLOOR, _CEILING = 1e-2, 1e4  # beyond, only the side matters; the page gives the numbers
_NAME_LENGTH = 30  # characters of a kernel's name that fit beside its numbers

# Placeholders that Matplotlib takes for colours, and the page's variables that replace them.
_INK, _MUTED, _BAR, _BAD, _PAPER = "#010203", "#010204", "#010205", "#010206", "#010207"
_VARIABLES = {_INK: "--ink", _MUTED: "--muted", _BAR: "--bar", _BAD: "--bad", _PAPER: "--paper"}


@dataclass(frozen=True, slots=True)
class Strip:
    """One row of the picture: a kernel's name and its ratios."""

    name: str
    ratios: Ratios


def ratio_charts(strips: Mapping[Direction, Sequence[Strip]]) -> dict[Direction, str]:
    """One picture a direction, all on the same axis.

    Each is an inline SVG element for HTML, without a namespace, a title or a role: the page gives it its text
    alternative. A thin line spans all tensors within their limits, a bar the middle 90 %, a gap marks the median and a
    ring the worst. Crosses are tensors that failed; those without a finite error stand at the right edge.
    """
    low, high = _span([strip for rows in strips.values() for strip in rows])
    return {direction: _picture(rows, direction, low, high) for direction, rows in strips.items()}


def _picture(strips: Sequence[Strip], key: str, low: float, high: float) -> str:
    rows = max(len(strips), 1)
    height = _HEAD + _ROW * rows + _FOOT
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": key, "font.size": 9.5}):
        figure = Figure(figsize=(_WIDTH, height))
        axes = figure.add_axes((0.01, _FOOT / height, 0.98, _ROW * rows / height))
        _axis(axes, low, high, rows)
        for row, strip in enumerate(strips):
            _strip(axes, row, strip, low, high)
        return _inline(figure, key)


def _span(strips: Sequence[Strip]) -> tuple[float, float]:
    values = [value for strip in strips for value in strip.ratios.values if value > 0]
    low = min([0.5, *values])
    high = max([4.0, *values])
    return max(_FLOOR, low / 1.15), min(_CEILING, high * 1.15)


def _axis(axes: Axes, low: float, high: float, rows: int) -> None:
    # Past `high` lies a margin of its own for errors that are no number.
    edge = high * (high / low) ** 0.08
    axes.set(xscale="log", xlim=(low * (low / high) ** 0.02, edge), ylim=(rows - 0.5, -0.7), yticks=[])
    axes.patch.set_alpha(0)
    axes.spines[["left", "right", "top"]].set_visible(False)
    axes.spines["bottom"].set_color(_MUTED)
    wide = high / low > 200
    subs = (1.0,) if wide else (1.0, 2.0, 5.0)
    ticks = [float(tick) for tick in LogLocator(subs=subs).tick_values(low, high) if low <= tick <= high]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FixedFormatter([f"{tick:,.10g}" for tick in ticks]))
    axes.xaxis.set_minor_locator(FixedLocator([]))
    axes.tick_params(colors=_MUTED)
    axes.set_xlabel("error / PyTorch's error", color=_MUTED, parse_math=False)
    for tick in ticks:
        axes.axvline(tick, color=_BAR, linewidth=0.5, zorder=0)
    axes.axvline(RULE, color=_INK, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    axes.text(RULE, -0.75, "2x rule", color=_INK, ha="center", va="bottom")


def _strip(axes: Axes, row: int, strip: Strip, low: float, high: float) -> None:
    found = strip.ratios
    name = strip.name if len(strip.name) <= _NAME_LENGTH else strip.name[: _NAME_LENGTH - 1] + "\N{HORIZONTAL ELLIPSIS}"
    axes.text(0, row - 0.42, name, color=_INK, va="center", transform=axes.get_yaxis_transform(), parse_math=False)
    axes.text(
        1, row - 0.42, _numbers(found), color=_MUTED, ha="right", va="center", transform=axes.get_yaxis_transform()
    )

    def clip(value: float) -> float:
        return min(max(value, low), high)

    if found.within:
        first, last = clip(found.within[0]), clip(found.within[-1])
        five, median, ninety_five = (clip(quantile(found.within, share) or 0.0) for share in (0.05, 0.5, 0.95))
        axes.plot([first, last], [row, row], color=_MUTED, linewidth=1, zorder=2)
        axes.plot([five, ninety_five], [row, row], color=_MUTED, linewidth=6, solid_capstyle="butt", zorder=3)
        axes.plot([median], [row], "|", color=_PAPER, markersize=6, markeredgewidth=2, zorder=4)
        axes.plot([last], [row], "o", color=_PAPER, markeredgecolor=_MUTED, markersize=5, zorder=4)
    # Crosses closer than a hundredth of a decade cannot be told apart; one of them is enough.
    crosses = sorted({round(math.log10(clip(value)), 2) for value in found.beyond})
    at = [10**cross for cross in crosses] + ([axes.get_xlim()[1]] if found.not_finite else [])
    if at:
        axes.plot(
            at, [row + 0.24] * len(at), "x", color=_BAD, markersize=6, markeredgewidth=1.5, zorder=5, clip_on=False
        )


def _numbers(found: Ratios) -> str:
    parts = []
    if found.values:
        parts += [f"median {short(found.median)}", f"worst {short(found.worst)}"]
    elif found.not_finite:
        parts.append("not finite")
    elif found.without:
        parts.append(f"{plural(found.without, 'tensor')} without a ratio")
    return ", ".join(parts) or "not measured"


def _inline(figure: Figure, key: str) -> str:
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # The browser draws the text: a sign that Matplotlib's font lacks is only measured wrongly.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font", category=UserWarning)
        figure.savefig(
            buffer, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
        )
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    opening, rest = svg.split(">", 1)
    view = re.search(r'viewBox="[^"]*"', opening)
    assert view is not None, "Matplotlib gives every picture a viewBox"
    svg = f"<svg {view.group()}>{rest}".replace("xlink:href", "href")
    svg = re.sub(r'(?<= id=")|(?<=href="#)|(?<=url\(#)', f"{key}-", svg)
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, count=1, flags=re.DOTALL)  # it would style the page
    for placeholder, variable in _VARIABLES.items():
        svg = svg.replace(placeholder, f"var({variable})")
    return svg.strip()
