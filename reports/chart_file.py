"""The charts of one part as an SVG file, for pages that are no report: the same pictures, style and colours."""

from dataclasses import dataclass

from markupsafe import Markup

from fa2verify.reports.chart import WIDTH, Chart, colours
from fa2verify.reports.figures import Part
from fa2verify.reports.html import asset, environment

_COLUMNS = 3
_GAP, _TITLE, _LINE = 30, 22, 18  # between panels; above one for its title; of a line of the legend
_ENTRY = 180  # width of a name in the legend


@dataclass(frozen=True, slots=True)
class _Placed:
    x: int
    y: int
    title: str
    charts: tuple[tuple[int, Chart], ...]  # each with where it begins


def svg(part: Part) -> str:
    """The part's charts in rows, their legend above; empty without a chart."""
    panels = [panel for panel in part.panels if panel.charts]
    if not panels:
        return ""
    columns = min(_COLUMNS, len(panels))
    width = columns * WIDTH + (columns - 1) * _GAP
    a_line = max(1, width // _ENTRY)
    top = 10 + _LINE * -(-len(part.names) // a_line)
    placed = []
    for first in range(0, len(panels), columns):
        row = panels[first : first + columns]
        for number, panel in enumerate(row):
            begins = [
                top + _TITLE + sum(chart.height for chart in panel.charts[:at]) for at in range(len(panel.charts))
            ]
            charts = tuple(zip(begins, panel.charts, strict=True))
            placed.append(_Placed(number * (WIDTH + _GAP), top, panel.title, charts))
        top += _TITLE + _GAP + max(sum(chart.height for chart in panel.charts) for panel in row)
    return (
        environment()
        .get_template("charts.svg")
        .render(
            width=width,
            height=top - _GAP,
            title=part.title,
            panels=placed,
            legend=[(at % a_line * _ENTRY, 12 + at // a_line * _LINE, name) for at, name in enumerate(part.names)],
            colours=colours(part.names),
            style=Markup(asset("palette.css") + asset("charts.css")),
        )
    )
