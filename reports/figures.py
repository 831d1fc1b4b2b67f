"""Tables of figures, and the parts of a report that they make up: what is said, whether as HTML or as Markdown."""

from collections.abc import Sequence
from dataclasses import dataclass

from fa2verify.reports.chart import Chart


@dataclass(frozen=True, slots=True)
class Cell:
    """One figure.

    text   the figure, or what there is in its place
    notes  what it is in other units, in a few words each
    share  what part it is of the most that it could be, 0 to 1, to be drawn; None where nothing is known
    bad    whether it is a fault
    """

    text: str
    notes: tuple[str, ...] = ()
    share: float | None = None
    bad: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table.

    name   what it is about
    note   what else is to be said of that
    cells  as many as the table has columns
    aside  whether it is there to compare with: not measured in this run, or no kernel
    """

    name: str
    cells: tuple[Cell, ...]
    note: str = ""
    aside: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Figures in rows, one for each name; `head` names the column of names and the others."""

    head: tuple[str, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Panel:
    """A table, and charts of the same figures if there are any."""

    title: str
    table: Table
    charts: tuple[Chart, ...] = ()

    @property
    def measured(self) -> bool:
        """Whether it has a row that is not only there to compare with."""
        return any(not row.aside for row in self.table.rows)


@dataclass(frozen=True, slots=True)
class Part:
    """What is measured in one way.

    note     what the figures are
    remarks  what the figures cannot say: failures above all
    tabled   whether its tables are what it is read for, charts or none
    """

    title: str
    note: str
    panels: tuple[Panel, ...]
    remarks: tuple[str, ...] = ()
    tabled: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Whatever its charts draw, each once."""
        charts = (chart for panel in self.panels for chart in panel.charts)
        return tuple(dict.fromkeys(series.name for chart in charts for series in chart.series))


EMPTY = Cell("\N{EN DASH}")


def in_order(found: Sequence[str], only: Sequence[str]) -> tuple[str, ...]:
    """Each name once: in the order of `only` and no other, or all as they appear where nothing is asked for."""
    present = dict.fromkeys(found)
    return tuple(name for name in only if name in present) if only else tuple(present)
