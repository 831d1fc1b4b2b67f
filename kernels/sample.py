"""Which part of a problem is judged where the whole is too large to be: tokens on both sides of where an index wraps.

A row of out, of lse and of dq depends on its query and on the keys that it sees, and where the gradient of out is 0
outside of the sample, so do the gradients of those keys: a query whose row of it is 0 adds nothing to any of them. So
the sample is a smaller problem of its own, and what is right for it is right for its part of the whole.

An index that is kept in too few bits is wrong from some row on. The sample has the first and last rows, those on either
side of each power of two at which such an index wraps, and some at random.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate

from torch import Tensor

from fa2verify.kernels.problem import Problem
from fa2verify.kernels.values import Stream

# Elements of a tensor past which an offset no longer fits: 2^31 and 2^32 elements, signed and unsigned; 2^31 and 2^32
# bytes are 2^30 and 2^31 elements of 16 bits, 2^29 and 2^30 of fp32, in which gradients are summed.
ELEMENTS = (2**29, 2**30, 2**31, 2**32)
# Rows of a sequence and sequences of a batch past which 16 bits, or a dimension of a CUDA grid, end; the latter also
# counts blocks of 64 or 128 rows.
COUNTS = (2**16, 2**22, 2**23)

# Sequences of up to so many queries are taken whole.
_SHORT = 16
_AT_RANDOM = 3
# Neighbouring queries that are taken with each that is meant where a window makes parts of a sequence problems.
_AROUND = 4
# No tensor draws from this stream: theirs are numbered from 0, and those that roles share from 2^63.
_STREAM = 2**62


@dataclass(frozen=True, slots=True)
class Segment:
    """Queries of one sequence, and every key that one of them sees.

    sequence  index in the batch
    queries   runs of rows, ascending
    keys      rows of k and v
    """

    sequence: int
    queries: tuple[range, ...]
    keys: range


def sample(problem: Problem) -> tuple[Segment, ...]:
    """The segments of `problem` that are judged, in the order of its batch.

    No key is in two of them. With no mask a segment is some of a sequence's queries and all of its keys; with a window
    that ends at the diagonal, neighbouring queries and the keys before them; with another mask a whole sequence.
    """
    starts_q, starts_k = starts(problem.seqlens_q), starts(problem.seqlens_k)
    packed = {"qkv_packed": (3, 3), "kv_packed": (1, 2)}.get(problem.layout, (1, 1))
    marks_q = _marks(starts_q[-1], problem.heads_q * problem.head_dim, packed[0])
    marks_k = _marks(starts_k[-1], problem.heads_kv * problem.head_dim, packed[1])
    bits = [int(index) for index in Stream.of(problem.seed, _STREAM).indices((2 * _AT_RANDOM,))]
    anywhere, elsewhere = ([each / 2**16 for each in part] for part in (bits[:_AT_RANDOM], bits[_AT_RANDOM:]))
    of_count = {
        place for count in COUNTS for heads in (1, problem.heads_q) for place in (count // heads - 1, count // heads)
    }
    chosen = {
        *(bisect_right(starts_q, token) - 1 for token in marks_q),
        *(bisect_right(starts_k, token) - 1 for token in marks_k),
        *(place for place in of_count if 0 <= place < problem.batch),
        *(int(share * problem.batch) for share in anywhere),
        0,
        problem.batch - 1,
    }
    found: list[Segment] = []
    for sequence in sorted(chosen):
        length_q, length_k = problem.seqlens_q[sequence], problem.seqlens_k[sequence]
        diagonal = problem.diagonal(sequence)
        rows = {
            *(token - starts_q[sequence] for token in marks_q),
            *(token - starts_k[sequence] - diagonal for token in marks_k),
            *(place for count in COUNTS for place in (count - 1, count)),
            *(int(share * length_q) for share in elsewhere),
            0,
            length_q - 1,
        }
        rows = {row for row in rows if 0 <= row < length_q}
        if length_q <= _SHORT or not (_unmasked(problem) or _local(problem)):
            found.append(Segment(sequence, (range(length_q),), range(length_k)))
        elif _unmasked(problem):
            found.append(Segment(sequence, tuple(_runs(rows)), range(length_k)))
        else:
            found += _windows(problem, sequence, rows)
    return tuple(found)


def starts(lengths: Iterable[int]) -> list[int]:
    """Where each sequence begins among all tokens, and how many tokens there are."""
    return list(accumulate(lengths, initial=0))


def pieces_q(problem: Problem, tensor: Tensor, segments: Iterable[Segment]) -> list[Tensor]:
    """The sample's rows of a tensor like q, as views (rows, heads, head_dim)."""
    begins = starts(problem.seqlens_q) if problem.is_varlen else []
    return [_tokens(problem, tensor, segment.sequence, begins, run) for segment in segments for run in segment.queries]


def pieces_k(problem: Problem, tensor: Tensor, segments: Iterable[Segment]) -> list[Tensor]:
    """The sample's rows of a tensor like k, as views (rows, heads_kv, head_dim)."""
    begins = starts(problem.seqlens_k) if problem.is_varlen else []
    return [_tokens(problem, tensor, segment.sequence, begins, segment.keys) for segment in segments]


def pieces_lse(problem: Problem, lse: Tensor, segments: Iterable[Segment]) -> list[Tensor]:
    """The sample's part of an lse, as views (heads_q, rows)."""
    begins = starts(problem.seqlens_q)
    return [
        lse[:, begins[segment.sequence] + run.start : begins[segment.sequence] + run.stop]
        if problem.is_varlen
        else lse[segment.sequence, :, run.start : run.stop]
        for segment in segments
        for run in segment.queries
    ]


def _tokens(problem: Problem, tensor: Tensor, sequence: int, begins: list[int], run: range) -> Tensor:
    if not problem.is_varlen:
        return tensor[sequence, run.start : run.stop]
    return tensor[begins[sequence] + run.start : begins[sequence] + run.stop]


def _marks(tokens: int, row: int, packed: int) -> set[int]:
    """Tokens before, at and after each place where an offset wraps.

    tokens  how many there are
    row     elements of a token
    packed  how many such rows lie between two tokens of an input
    """
    at = {elements // (row * factor) for elements in ELEMENTS for factor in (1, packed)}
    return {place + step for place in at for step in (-1, 0, 1) if 0 <= place + step < tokens}


def _unmasked(problem: Problem) -> bool:
    return problem.causal is None and problem.window == (-1, -1) and problem.alibi is None


def _local(problem: Problem) -> bool:
    left, right = problem.window
    ends_at_diagonal = problem.causal == "bottom_right" or (problem.causal is None and right == 0)
    return left >= 0 and ends_at_diagonal


def _runs(rows: Iterable[int], reach: int = 0) -> Iterator[range]:
    """Ranges that hold the rows and nothing else, but for gaps of up to `reach` rows."""
    begin = end = None
    for row in sorted(rows):
        if begin is None or end is None or row > end + reach:
            if begin is not None and end is not None:
                yield range(begin, end)
            begin = row
        end = row + 1
    if begin is not None and end is not None:
        yield range(begin, end)


def _windows(problem: Problem, sequence: int, rows: Iterable[int]) -> Iterator[Segment]:
    """Neighbouring queries with the keys of their windows, none of which is in two.

    The last key's distance from the last query is as in the whole: the sample's diagonal is the whole's.
    """
    length, diagonal = problem.seqlens_q[sequence], problem.diagonal(sequence)
    left = problem.window[0]
    near = {row + step for row in rows for step in range(-_AROUND, _AROUND + 1) if 0 <= row + step < length}
    for run in _runs(near, reach=left):
        keys = range(max(0, run.start + diagonal - left), max(0, run.stop + diagonal))
        yield Segment(sequence, (run,), keys)
