"""Where in the tensor the worst elements sit: by tile of rows and by part of head_dim, against what chance would give.

Kernels work in tiles, and go wrong at their edges: in the last, ragged one, in the first after a boundary, past a
head_dim that fills no tile. Each tensor that has an error tells the place of its worst element. The tensors' shapes say
how many would lie in each cell if every element were as likely, so a cell stands out by Pearson's residual,
(found - expected) / sqrt(expected), not by being large.
"""

import math
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache

from fa2verify.reports.call import Call, call_of
from fa2verify.reports.ratios import DIRECTIONS, OUTPUTS, Direction
from fa2verify.reports.record import OutputError
from fa2verify.reports.store import Loaded
from fa2verify.reports.summary import counted

TILE = 64  # rows; tiles of most kernels are this high, or a multiple, or a divisor
_FIRST_TILES = (0, 1, 2, 4, 8, 16)  # a row of the map begins at each of these whole tiles
ROWS = ("tile 1", "tile 2", "tiles 3\N{EN DASH}4", "tiles 5\N{EN DASH}8", "tiles 9\N{EN DASH}16", "later", "ragged end")
_RAGGED = len(ROWS) - 1
_DIMS = (0, 32, 64, 96, 128, 192)  # a column of the map begins at each of these
COLUMNS = ("0", "32", "64", "96", "128", "192")


@dataclass(frozen=True, slots=True)
class Cell:
    """One part of the tensors: how many worst elements were found there, and how many chance would put there."""

    found: int
    expected: float

    @property
    def residual(self) -> float:
        """Pearson's: beyond 2 either way is unusual, beyond 4 hardly chance."""
        return (self.found - self.expected) / math.sqrt(self.expected) if self.expected else 0.0


@dataclass(frozen=True, slots=True)
class Map:
    """One kernel's tensors of one direction; `cells` by `ROWS`, then `COLUMNS`; None where no tensor reaches."""

    kernel: str
    direction: Direction
    tensors: int
    cells: tuple[tuple[Cell | None, ...], ...]


def maps(loaded: Loaded) -> tuple[Map, ...]:
    """One map a kernel and direction with a tensor that has an error anywhere.

    Of tensors that were judged whole: where a sample's worst element is, chance does not spread over the tensor.
    """
    gathered: dict[tuple[str, Direction], _Gathered] = {}
    for part in loaded.parts:
        for record in counted(part.records):
            call = call_of(record.problem) if record.errors else None
            for direction in DIRECTIONS if call else ():
                for error in record.errors:
                    whole = call and call.values != "sampled" and error.output in OUTPUTS[direction]
                    place = _place(call, error) if call and whole else None
                    if call and place:
                        gathered.setdefault((record.kernel, direction), _Gathered()).add(call, error, place)
    return tuple(found.map(kernel, direction) for (kernel, direction), found in gathered.items())


class _Gathered:
    def __init__(self) -> None:
        self.tensors = 0
        self.found: dict[tuple[int, int], int] = defaultdict(int)
        self.expected: dict[tuple[int, int], float] = defaultdict(float)

    def add(self, call: Call, error: OutputError, place: tuple[int, int]) -> None:
        self.tensors += 1
        self.found[place] += 1
        rows = _shares_of_rows(call.seqlens(error.output))
        for column, width in _shares_of_dims(call.head_dim).items():
            for row, height in rows.items():
                self.expected[row, column] += height * width

    def map(self, kernel: str, direction: Direction) -> Map:
        cells = tuple(
            tuple(
                Cell(self.found[row, column], self.expected[row, column]) if (row, column) in self.expected else None
                for column in range(len(COLUMNS))
            )
            for row in range(len(ROWS))
        )
        return Map(kernel, direction, self.tensors, cells)


def _place(call: Call, error: OutputError) -> tuple[int, int] | None:
    """The cell of the worst element; None if no element has an error, or the index does not fit the problem."""
    if not error.bound_units > 0:  # the index is then that of the first element, which is as right as all others
        return None
    seqlens = call.seqlens(error.output)
    match error.worst_index:
        case (row, _, dim) if call.packed:
            for seqlen in seqlens:
                if row < seqlen:
                    break
                row -= seqlen
            else:
                return None
        case (batch, row, _, dim) if not call.packed and batch < len(seqlens):
            seqlen = seqlens[batch]
        case _:
            return None
    if not (0 <= row < seqlen and 0 <= dim < call.head_dim):
        return None
    return _row(row // TILE, seqlen // TILE), _last_at_most(_DIMS, dim)


def _row(tile: int, whole: int) -> int:
    return _RAGGED if tile >= whole else _last_at_most(_FIRST_TILES, tile)


@lru_cache(2**14)  # outputs and slices ask for the same shapes again and again
def _shares_of_rows(seqlens: tuple[int, ...]) -> dict[int, float]:
    """Rows of the map to the share of a tensor's rows that they hold."""
    rows: dict[int, int] = defaultdict(int)
    for seqlen in seqlens:
        whole = seqlen // TILE
        ends = (*_FIRST_TILES[1:], max(whole, _FIRST_TILES[-1]))
        for row, (first, end) in enumerate(zip(_FIRST_TILES, ends, strict=True)):
            rows[row] += TILE * max(min(end, whole) - first, 0)
        rows[_RAGGED] += seqlen % TILE
    total = sum(rows.values())
    return {row: count / total for row, count in rows.items() if count}


@lru_cache
def _shares_of_dims(head_dim: int) -> dict[int, float]:
    """Columns of the map to the share of head_dim that they hold."""
    ends = (*_DIMS[1:], max(head_dim, _DIMS[-1]))
    widths = (min(end, head_dim) - first for first, end in zip(_DIMS, ends, strict=True))
    return {column: width / head_dim for column, width in enumerate(widths) if width > 0}


def _last_at_most(starts: tuple[int, ...], value: int) -> int:
    return max(place for place, start in enumerate(starts) if start <= value)
