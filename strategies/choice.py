"""One of several options: `sampled_from` that says at once, and in words, that there is nothing to choose from."""

from collections.abc import Sequence
from typing import TypeVar

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

T = TypeVar("T")


def choice(options: Sequence[T], what: str) -> SearchStrategy[T]:
    """One of `options`, an option listed twice twice as often; shrinks towards the first.

    Raises ValueError, naming `what`, if there is none. Hypothesis itself would raise on the first draw.
    """
    if not options:
        raise ValueError(f"{what}: nothing to draw; at least one option is needed")
    return st.sampled_from(options)
