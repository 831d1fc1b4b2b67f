"""Masks: the two causal alignments, and sliding windows."""

from collections.abc import Sequence
from typing import Literal, get_args

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from fa2verify.kernels.problem import Causal
from fa2verify.strategies.choice import choice

# Bottom-right first: flash-attn 2.1 and later, the alignment that most kernels have.
CAUSALS: tuple[Causal | None, ...] = (None, "bottom_right", "top_left")

Window = tuple[int, int]
# Which sides of the window are bounded.
WindowKind = Literal["left", "right", "both"]
WINDOW_KINDS: tuple[WindowKind, ...] = get_args(WindowKind)


def causals(supported: Sequence[Causal | None] = CAUSALS) -> SearchStrategy[Causal | None]:
    """One of `supported`, None in half of all draws; shrinks towards the first. Raises ValueError if there is none."""
    return choice([*supported, *[None] * (supported.count(None) * (len(supported) - 2))], "causals")


def windows(side: SearchStrategy[int], kinds: Sequence[WindowKind] = WINDOW_KINDS) -> SearchStrategy[Window]:
    """Windows (left, right) of one of `kinds`, each bounded side one less than a draw from `side`, a length.

    One less, because a window of `left` keys to the left is `left + 1` keys wide with the query's own: a width at a
    tile's edge is what matters, and 0, the query's own key alone, is the least. Shrinks towards a left side of 0 that
    is unbounded to the right. Raises ValueError if `kinds` is empty.
    """
    return _windows(choice(kinds, "windows"), side)


@st.composite
def _windows(draw: DrawFn, kinds: SearchStrategy[WindowKind], side: SearchStrategy[int]) -> Window:
    match draw(kinds):
        case "left":
            return draw(side) - 1, -1
        case "right":
            return -1, draw(side) - 1
        case "both":
            return draw(side) - 1, draw(side) - 1
