"""Dropout of attention weights: its probability and the seed of its mask."""

from collections.abc import Sequence

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from fa2verify.strategies.choice import choice
from fa2verify.strategies.families import seeds

# 1/2 and what rounds: 0.17 is flash-attn's own tests', 0.9 leaves few weights.
PROBABILITIES = (0.5, 0.1, 0.17, 0.9)

Dropout = tuple[float, int]  # (probability, seed)


def dropouts(supported: Sequence[float] = PROBABILITIES) -> SearchStrategy[Dropout]:
    """Pairs (probability, seed); shrinks towards the first probability and seed 0.

    Raises ValueError if there is no probability.
    """
    return st.tuples(choice(supported, "dropouts"), seeds())
