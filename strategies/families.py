"""The family of the tensors' values, and which draw of it."""

from collections.abc import Sequence

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from fa2verify.kernels.values import FAMILIES, Family
from fa2verify.strategies.choice import choice


def families(supported: Sequence[Family] = FAMILIES) -> SearchStrategy[Family]:
    """One of `supported`, the first in about half of all draws; shrinks towards the first, randn by default.

    Values with all scores low come twice as often as others: what they alone show takes more besides.

    Raises ValueError if there is none.
    """
    often = [family for family in supported[1:] if family == "opposed"]
    others = [*supported[1:], *often]
    return choice([*list(supported[:1]) * max(1, len(others)), *others], "families")


def seeds() -> SearchStrategy[int]:
    """A seed of values or of dropout, in 16 bits to keep problems readable; shrinks towards 0."""
    return st.integers(0, 2**16 - 1)
