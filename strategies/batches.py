"""Batches of sequences with lengths of their own (varlen): the patterns that a kernel's bookkeeping gets wrong.

What goes wrong is rarely one sequence: it is the offset after an empty one, the grid sized by the longest one when the
others are short, or the tile that reads on into the next.
"""

from collections.abc import Sequence
from typing import Literal, TypeVar

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from fa2verify.strategies.size import Pair

# "any": as drawn; "one_long": all but the longest are short; "equal": all like the first.
Pattern = Literal["any", "one_long", "equal"]
T = TypeVar("T")
_SHORT = 8  # how many of the shortest lengths count as short


def batches(
    pair: SearchStrategy[Pair], max_batch: int, lengths_q: Sequence[int], lengths_k: Sequence[int]
) -> SearchStrategy[tuple[Pair, ...]]:
    """Batches of 1 to `max_batch` pairs; `lengths_q` and `lengths_k`, ascending, are those of a short sequence.

    A pattern only changes pairs that were drawn without it, so every batch can be reached as "any", which all shrink
    towards: one sequence, and that towards what `pair` shrinks to. Raises ValueError if `max_batch` is below 1 or
    there is no length.
    """
    for name, lengths in (("lengths_q", lengths_q), ("lengths_k", lengths_k)):
        if not lengths:
            raise ValueError(f"{name}: no length for a short sequence; at least one is needed")
    patterns: tuple[Pattern, ...] = ("any", "any", "one_long", "equal")
    return _batches(pair, _rest(pair, max_batch), st.sampled_from(patterns), lengths_q[:_SHORT], lengths_k[:_SHORT])


def uniform_batches(pair: SearchStrategy[Pair], max_batch: int) -> SearchStrategy[tuple[Pair, ...]]:
    """Batches of 1 to `max_batch` times the same pair, as dense problems have; shrinks towards one.

    Drawn in the same choices as a varlen batch as long as that is one sequence, so that a varlen problem which need not
    be varlen shrinks to a dense one. Raises ValueError if `max_batch` is below 1.
    """
    return st.tuples(pair, _rest(st.none(), max_batch)).map(lambda drawn: (drawn[0],) * (1 + len(drawn[1])))


def _rest(element: SearchStrategy[T], max_batch: int) -> SearchStrategy[list[T]]:
    if max_batch < 1:
        raise ValueError(f"max_batch: {max_batch} leaves no sequence to draw; it must be at least 1")
    return st.lists(element, max_size=max_batch - 1)


@st.composite
def _batches(
    draw: DrawFn,
    first: SearchStrategy[Pair],
    rest: SearchStrategy[list[Pair]],
    patterns: SearchStrategy[Pattern],
    short_q: Sequence[int],
    short_k: Sequence[int],
) -> tuple[Pair, ...]:
    pairs = [draw(first), *draw(rest)]
    match draw(patterns) if len(pairs) > 1 else "any":
        case "any":
            return tuple(pairs)
        case "equal":
            return (pairs[0],) * len(pairs)
        case "one_long":
            longest = max(range(len(pairs)), key=lambda index: max(pairs[index]))
            return tuple(
                (q, k) if index == longest else (_shorten(q, short_q), _shorten(k, short_k))
                for index, (q, k) in enumerate(pairs)
            )


def _shorten(length: int, short: Sequence[int]) -> int:
    return short[(length - 1) % len(short)] if length > short[-1] else length
