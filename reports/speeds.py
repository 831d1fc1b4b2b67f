"""How fast kernels were, as people know it: TFLOP/s by sequence length, a panel for each head_dim and mask."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

from fa2verify.reports import chart
from fa2verify.reports.benchmark_record import Ceiling, Direction, Measurement, Outcome, Timing
from fa2verify.reports.call import Call, call_of
from fa2verify.reports.chart import Chart
from fa2verify.reports.figures import EMPTY, Cell, Panel, Part, Row, Table, in_order
from fa2verify.reports.medians import SURE, uncertainty
from fa2verify.reports.summary import plural, short

_NOTE = (
    "Operations as published tables count them, over the median of rounds in which every kernel ran once: TFLOP/s. "
    "Dashed: a large matrix product in the same rounds, which is what there is to gain. Below it the speed where that "
    "of {against} is 1. Where there is no bar nothing was measured, and the table says why. In tables: TFLOP/s; that "
    "speed, and the share of the product; milliseconds, and half the interval that holds their median with 95 % "
    "confidence where that is above 1 %."
)
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)
WORDS: dict[Direction, str] = {"forward": "forward", "backward": "backward", "both": "forward and backward"}
OUTCOMES: dict[Outcome, Cell] = {
    "out_of_memory": Cell("OOM"),
    "failed": Cell("failed", bad=True),
    "unsupported": EMPTY,
}
_LONGEST = 3  # names of cells in one remark


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a cell is shown.

    panel   what its panel is called; cells of one panel have all of that in common
    length  the sequences' length; 0 where they are of several, or unknown
    column  what its column is called
    """

    panel: str
    length: int
    column: str


def speeds(measured: Sequence[Measurement], against: str, only: Sequence[str] = ()) -> tuple[Part, ...]:
    """A part for each grid that was timed, its panels by direction.

    against  the kernel that speeds are over
    only     kernels to show, in this order; all without any
    """
    taken = [line for line in measured if isinstance(line, Timing) and line.outcome != "unsupported"]
    ceilings: dict[tuple[str, str], Ceiling] = {
        (line.cell, line.name): line for line in measured if isinstance(line, Ceiling)
    }
    return tuple(
        Part(
            title=f"Speed: {grid}",
            # Said once, where it is first needed.
            note="" if number else _NOTE.format(against=against),
            panels=_panels([line for line in taken if line.grid == grid], ceilings, against, only),
            remarks=failures(
                (line.kernel, f"{line.cell} {line.direction}", line.outcome, line.message)
                for line in taken
                if line.grid == grid
            ),
        )
        for number, grid in enumerate(dict.fromkeys(line.grid for line in taken))
    )


def missing(line: object) -> Cell:
    """What stands where nothing was measured: why not, if it was tried."""
    outcome: Outcome = getattr(line, "outcome", "unsupported")
    return OUTCOMES[outcome]


def failures(found: Iterable[tuple[str, str, Outcome, str]]) -> tuple[str, ...]:
    """What failed, in sentences, the same failure once; `found` has who, where, outcome and message."""
    return together((f"{name} failed", place, said) for name, place, outcome, said in found if outcome == "failed")


def together(found: Iterable[tuple[str, str, str]]) -> tuple[str, ...]:
    """Sentences of what happened, where and why; what happened for the same reason in several places once."""
    places: dict[tuple[str, str], list[str]] = {}
    for name, place, message in found:
        places.setdefault((name, message), []).append(place)
    return tuple(
        f"{name} ({', '.join(where[:_LONGEST])}{_more(len(where) - _LONGEST)}): {message}"
        for (name, message), where in places.items()
    )


def _more(count: int) -> str:
    return f" and {count} more" if count > 0 else ""


def _panels(
    of_grid: Sequence[Timing], ceilings: dict[tuple[str, str], Ceiling], against: str, only: Sequence[str]
) -> tuple[Panel, ...]:
    places = _places(of_grid)
    found: dict[tuple[Direction, str], dict[str, _Place]] = {}
    for line in sorted(of_grid, key=lambda line: DIRECTIONS.index(line.direction)):
        place = places[line.cell]
        found.setdefault((line.direction, place.panel), {})[line.cell] = place
    return tuple(
        _panel(
            f"{WORDS[direction]}, {title}",
            sorted(cells, key=lambda cell: cells[cell].length),
            {cell: place.column for cell, place in cells.items()},
            [line for line in of_grid if line.direction == direction],
            ceilings,
            against,
            only,
        )
        for (direction, title), cells in found.items()
    )


def _panel(
    title: str,
    cells: Sequence[str],
    named: dict[str, str],
    of_direction: Sequence[Timing],
    ceilings: dict[tuple[str, str], Ceiling],
    against: str,
    only: Sequence[str],
) -> Panel:
    lines = {(line.kernel, line.cell): line for line in of_direction if line.cell in cells}
    kernels = in_order([kernel for kernel, _ in lines], only)
    columns = tuple(named[cell] for cell in cells)
    products = [ceilings.get((cell, "matmul")) for cell in cells]
    rates = [ceiling.rate if ceiling else None for ceiling in products]
    rows = [
        Row(
            kernel,
            tuple(
                _cell(lines.get((kernel, cell)), lines.get((against, cell)), rate)
                for cell, rate in zip(cells, rates, strict=True)
            ),
        )
        for kernel in kernels
    ]
    for name, unit, said in (("matmul", "", "matrix product"), ("copy", " TB/s", "copy")):
        best = [ceilings.get((cell, name)) for cell in cells]
        if any(best):
            shown = (Cell(f"{short(ceiling.rate)}{unit}") if ceiling else EMPTY for ceiling in best)
            rows.append(Row(said, tuple(shown), aside=True))
    charts = _charts(columns, cells, lines, kernels, rates, against)
    return Panel(title, Table(("kernel", *columns), tuple(rows)), charts)


def _charts(
    columns: Sequence[str],
    cells: Sequence[str],
    lines: dict[tuple[str, str], Timing],
    kernels: Sequence[str],
    rates: Sequence[float | None],
    against: str,
) -> tuple[Chart, ...]:
    measured = {key: line for key, line in lines.items() if line.outcome == "measured"}
    drawn = [kernel for kernel in kernels if any(name == kernel for name, _ in measured)]
    if not drawn:
        return ()
    tflops = {
        kernel: [measured[kernel, cell].tflops if (kernel, cell) in measured else None for cell in cells]
        for kernel in drawn
    }
    speed = chart.bars("TFLOP/s", columns, tflops, rates)
    if not any((against, cell) in measured for cell in cells) or len(drawn) < 2:
        return (speed,)
    ratios = {
        kernel: [_ratio(measured.get((kernel, cell)), measured.get((against, cell))) for cell in cells]
        for kernel in drawn
    }
    over = chart.bars(f"speed, {against} = 1", columns, ratios, [1.0] * len(columns), height=120)
    return speed, over


def _cell(line: Timing | None, base: Timing | None, product: float | None) -> Cell:
    if line is None or line.outcome != "measured":
        return missing(line)
    ratio = _ratio(line, base if base is not None and base.outcome == "measured" else None)
    share = None if product is None else line.tflops / product
    words = [] if ratio is None else [f"{ratio:.2f}x"]
    words += [] if share is None else [f"{share:.0%}".replace("%", " %")]
    notes = (*([", ".join(words)] if words else []), f"{short(line.median_ms)} ms{_doubt(line.ms)}")
    return Cell(short(line.tflops), notes, share)


def _doubt(ms: Sequence[float]) -> str:
    """What is to be said beside a median of these rounds if it is not sure."""
    doubt = uncertainty(ms)
    if doubt <= SURE:
        return ""
    return f" \N{PLUS-MINUS SIGN} {100 * doubt:.2g} %" if math.isfinite(doubt) else f" of {plural(len(ms), 'round')}"


def _ratio(line: Timing | None, base: Timing | None) -> float | None:
    return None if line is None or base is None else base.median_ms / line.median_ms


def _places(of_grid: Sequence[Timing]) -> dict[str, _Place]:
    """Cell to where it is shown."""
    calls = {line.cell: call_of(line.problem) for line in of_grid}
    known = [call for call in calls.values() if call is not None]
    # Said where it is no property of the whole grid; head_dim and mask always.
    several_dtypes = len({call.dtype for call in known}) > 1
    grid = of_grid[0].grid
    return {cell: _place(grid, cell, call, several_dtypes) for cell, call in calls.items()}


def _place(grid: str, cell: str, call: Call | None, several_dtypes: bool) -> _Place:
    name = cell.removeprefix(f"{grid}-")
    if call is None:
        return _Place("other problems", 0, name)
    words = [f"head_dim {call.head_dim}", "causal" if call.causal is not None else "full"]
    if call.heads_q != call.heads_kv:
        words.append(f"{call.heads_q}/{call.heads_kv} heads")
    if several_dtypes:
        words.append(call.dtype)
    if call.packed:
        return _Place(", ".join((*words, "packed")), 0, name)
    return _Place(", ".join(words), call.longest, str(call.longest))
