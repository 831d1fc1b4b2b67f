"""Lengths of sequences: biased to where tiles end, and to the pairs of query and key lengths that kernels confuse.

A notable length is drawn as any length, then brought down to a grid: tile edges, one past them, one below them, primes.
The length on the grid is its own preimage, so what fails there fails as a plain length too, and shrinks from there to
the smallest length that fails. Drawing a tile and a distance to it, or one of a list of special lengths, would leave
the shrinker on a tile's edge.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, get_args

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from fa2verify.strategies.size import Pair

TILES = (16, 32, 64, 128)
# Half of the notable lengths are among so many of the shortest, or small tiles would be rare among thousands.
# A power of two, because the shrinker tries clearing an index' high bits.
_SHORT_RANGE = 128
# As many of the shortest are few queries, or few keys: beside them the other side may be long within the same scores.
_FEW = 16
# How often, beside every pair of modes once: few queries meet every length of keys, few keys every length of queries.
_FEW_QUERIES, _FEW_KEYS = 6, 3
_PRIMES = (2, 3, 5, 7, 11, 23, 53, 97, 113, 241, 509, 1021)

# "free": both lengths as drawn; "square": seqlen_q = seqlen_k; the others: no query, no key, neither.
PairKind = Literal["free", "square", "empty_q", "empty_k", "empty"]
PAIR_KINDS: tuple[PairKind, ...] = get_args(PairKind)
# How often each kind is listed: an empty sequence is one case of few lines in a kernel, a square one the usual call.
_FREQUENCY: dict[PairKind, int] = {"free": 10, "square": 5, "empty_q": 1, "empty_k": 1, "empty": 1}


def notable_lengths(limit: int) -> tuple[int, ...]:
    """Lengths up to `limit` where kernels go wrong, ascending.

    1; one below, at and one past the first multiples of 16, 32 and 64 and every multiple of 128; some primes.
    """
    return tuple(sorted({1}.union(*_grids(limit))))


def _grids(limit: int) -> tuple[list[int], ...]:
    edges = {tile * times for tile in TILES for times in (1, 2, 3)} | {*range(TILES[-1], limit + 2, TILES[-1])}
    grids = [sorted(edge + past for edge in edges) for past in (0, 1, -1)]
    return tuple([length for length in grid if length <= limit] for grid in (*grids, _PRIMES))


@dataclass(frozen=True, slots=True)
class _Table:
    """The lengths to draw, and how: a mode is a range of indices and the grid that a length is brought down to.

    every  the lengths, ascending
    modes  the last is that of few: any of the shortest; the others are how a length alone is drawn
    """

    every: tuple[int, ...]
    modes: tuple[tuple[int, Sequence[int]], ...]

    @classmethod
    def of(cls, limit: int, supported: Sequence[int] | None) -> "_Table":
        every = tuple(range(1, limit + 1) if supported is None else supported)
        if not every:
            raise ValueError(f"limit: {limit} and supported: {supported} leave no length; at least one is needed")
        allowed = frozenset(every)
        grids = [[every[0], *(n for n in grid if n in allowed and n > every[0])] for grid in _grids(limit)]
        notable = tuple((size, grid) for size in (len(every), min(_SHORT_RANGE, len(every))) for grid in grids)
        alone = ((len(every), every),) * (len(notable) // 2) + notable
        return cls(every, (*alone, (min(_FEW, len(every)), every)))

    @property
    def alone(self) -> range:
        """The modes by which a length alone is drawn."""
        return range(len(self.modes) - 1)

    @property
    def few(self) -> int:
        """The mode of few."""
        return len(self.modes) - 1

    @property
    def long(self) -> tuple[int, ...]:
        """The modes that reach every size of length."""
        return tuple(mode for mode in self.alone if self.modes[mode][0] == len(self.every))

    @property
    def indices(self) -> SearchStrategy[int]:
        return st.integers(0, len(self.every) - 1)

    def length(self, mode: int, index: int) -> int:
        size, grid = self.modes[mode]
        return grid[bisect_right(grid, self.every[index % size]) - 1]


def lengths(limit: int, supported: Sequence[int] | None = None) -> SearchStrategy[int]:
    """Lengths from 1 to `limit`, two in three of them notable; of `supported`, ascending, where it is given.

    Shrinks towards the shortest length, over every length in between: not towards 0, since a sequence without
    elements takes paths of its own and is a `PairKind`. Raises ValueError if there is no length to draw.
    """
    table = _Table.of(limit, supported)
    return st.tuples(st.sampled_from(table.alone), table.indices).map(lambda drawn: table.length(*drawn))


def pairs(
    limit: int,
    kinds: Sequence[PairKind] = PAIR_KINDS,
    *,
    supported_q: Sequence[int] | None = None,
    supported_k: Sequence[int] | None = None,
) -> SearchStrategy[Pair]:
    """Pairs (seqlen_q, seqlen_k) of one of `kinds`, with lengths as `lengths` draws them; in a third one side is short.

    Shrinks towards the first of `kinds`, then towards the shortest keys and then the shortest queries: two lengths of
    which only one matters end with the other at its shortest, and zero stays only where it is what fails. Raises
    ValueError if there is no length or no kind to draw.
    """
    if not kinds:
        raise ValueError("kinds: no kind of pair to draw; at least one is needed")
    table_q, table_k = _Table.of(limit, supported_q), _Table.of(limit, supported_k)
    # Both modes in one choice: Hypothesis deletes at most five choices at a time, and a sequence of a batch is to go
    # in one step.
    return _pairs(
        table_q,
        table_k,
        st.sampled_from([kind for kind in kinds for _ in range(_FREQUENCY[kind])]),
        st.sampled_from(_joint_modes(table_q, table_k)),
    )


def _joint_modes(table_q: _Table, table_k: _Table) -> list[tuple[int, int]]:
    """Modes of queries and keys: both as if alone; or one side few, and the other of any size."""
    return [
        *product(table_q.alone, table_k.alone),
        *[(table_q.few, k) for k in table_k.long] * _FEW_QUERIES,
        *[(q, table_k.few) for q in table_q.long] * _FEW_KEYS,
    ]


@st.composite
def _pairs(
    draw: DrawFn,
    table_q: _Table,
    table_k: _Table,
    kinds: SearchStrategy[PairKind],
    modes: SearchStrategy[tuple[int, int]],
) -> Pair:
    kind = draw(kinds)
    mode_q, mode_k = draw(modes)
    k, q = table_k.length(mode_k, draw(table_k.indices)), table_q.length(mode_q, draw(table_q.indices))
    match kind:
        case "free":
            return q, k
        case "square":
            # Not one of the two: the other would have shrunk to nothing, and no step would lead back to "free".
            return min(q, k), min(q, k)
        case "empty_q":
            return 0, k
        case "empty_k":
            return q, 0
        case "empty":
            return 0, 0
