"""Errors against what they may depend on: sequence length, head_dim, family of values.

A kernel that is right for short sequences and drifts on long ones, or that is tight except on one family, shows here as
a row that is not level. Two numbers a cell: the worst share of the elementwise bound, which grows with nothing if the
bound's model holds, and the typical relative error, which may.
"""

import statistics
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from fa2verify.reports.call import Call, call_of
from fa2verify.reports.ratios import DIRECTIONS, OUTPUTS, Direction, share_of_bound
from fa2verify.reports.record import OutputError
from fa2verify.reports.store import Loaded
from fa2verify.reports.summary import counted

_SEQLENS = (16, 64, 256, 1024)
_HEAD_DIMS = (32, 64, 128, 256)
_FAMILIES = 16  # columns; a strange file may name any number of families
# Unit roundoffs: errors of both dtypes in one column need a common unit.
_ROUNDOFF = {"float16": 2.0**-11, "bfloat16": 2.0**-8}


_Measured = tuple[str, Call, OutputError]  # kernel, problem, tensor


@dataclass(frozen=True, slots=True)
class Cell:
    """Tensors of one kernel at one place of an axis.

    tensors  how many
    worst    the largest share of the bound, 1 is the limit
    typical  median of RMSE / (u * RMS of the reference), in unit roundoffs u of the dtype; None where no tensor of a
             known dtype has a reference that is not 0
    """

    tensors: int
    worst: float
    typical: float | None


@dataclass(frozen=True, slots=True)
class Row:
    """One kernel's tensors of one direction, a cell a column; None where nothing was measured."""

    kernel: str
    direction: Direction
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True, slots=True)
class Breakdown:
    """One axis: what it is, its columns, and a row a kernel and direction."""

    axis: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def breakdowns(loaded: Loaded, order: Mapping[str, int]) -> tuple[Breakdown, ...]:
    """Errors against the longest sequence, head_dim and the family of values, rows in the `order` of the kernels.

    Problems that this version cannot read are left out, and so are columns that no problem is in.
    """
    measured: list[_Measured] = []
    for part in loaded.parts:
        for record in counted(part.records):
            if record.errors and (call := call_of(record.problem)):
                measured += ((record.kernel, call, error) for error in record.errors)
    families = list(dict.fromkeys(call.values for _, call, _ in measured))[:_FAMILIES]
    measured.sort(key=lambda one: order[one[0]])
    return (
        _breakdown("longest sequence", _labels(_SEQLENS), lambda call: bisect_left(_SEQLENS, call.longest), measured),
        _breakdown("head_dim", _labels(_HEAD_DIMS), lambda call: bisect_left(_HEAD_DIMS, call.head_dim), measured),
        _breakdown(
            "family of values",
            tuple(families),
            lambda call: families.index(call.values) if call.values in families else None,
            measured,
        ),
    )


def _breakdown(
    axis: str,
    columns: tuple[str, ...],
    column: Callable[[Call], int | None],
    measured: Sequence[_Measured],
) -> Breakdown:
    gathered: dict[tuple[str, Direction], dict[int, list[tuple[str, OutputError]]]] = {}
    for kernel, call, error in measured:
        place = column(call)
        for direction in DIRECTIONS:
            cells = gathered.setdefault((kernel, direction), defaultdict(list))
            if place is not None and error.output in OUTPUTS[direction]:
                cells[place].append((call.dtype, error))
    used = sorted({place for cells in gathered.values() for place in cells})
    rows = (
        Row(kernel, direction, tuple(_cell(cells[place]) if place in cells else None for place in used))
        for (kernel, direction), cells in gathered.items()
        if cells
    )
    return Breakdown(axis, tuple(columns[place] for place in used), tuple(rows))


def _cell(tensors: Sequence[tuple[str, OutputError]]) -> Cell:
    relative = [
        error.rmse / (error.reference_rms * _ROUNDOFF[dtype])
        for dtype, error in tensors
        if dtype in _ROUNDOFF and error.reference_rms > 0
    ]
    return Cell(
        tensors=len(tensors),
        worst=max(share_of_bound(error) for _, error in tensors),
        typical=statistics.median(relative) if relative else None,
    )


def _labels(ends: Sequence[int]) -> tuple[str, ...]:
    """Columns that end at each of `ends`, and one for what is above the last."""
    between = (f"{low + 1}\N{EN DASH}{high}" for low, high in pairwise(ends))
    return (f"\N{LESS-THAN OR EQUAL TO} {ends[0]}", *between, f"> {ends[-1]}")
