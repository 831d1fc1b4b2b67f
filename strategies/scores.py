"""What is done to scores before the softmax: scale, softcap, ALiBi."""

from collections.abc import Sequence
from typing import get_args

from hypothesis.strategies import SearchStrategy

from fa2verify.kernels.problem import Alibi
from fa2verify.strategies.choice import choice

# No scale at all, as when someone scales q beforehand; powers of two, which round nothing; and values that round.
# Zero and negative scales are left out: no kernel promises them.
SCALES = (1.0, 0.5, 0.125, 0.3, 0.01)
# 1 saturates nearly every score; 30 and 50 are Gemma 2's (arXiv 2408.00118).
SOFTCAPS = (1.0, 15.0, 30.0, 50.0)
ALIBIS: tuple[Alibi, ...] = get_args(Alibi)


def scales(supported: Sequence[float] = SCALES) -> SearchStrategy[float]:
    """A softmax scale other than the default; shrinks towards the first. Raises ValueError if there is none."""
    return choice(supported, "scales")


def softcaps(supported: Sequence[float] = SOFTCAPS) -> SearchStrategy[float]:
    """A softcap above 0; shrinks towards the first. Raises ValueError if there is none."""
    return choice(supported, "softcaps")


def alibis(supported: Sequence[Alibi] = ALIBIS) -> SearchStrategy[Alibi]:
    """Slopes per head or per batch and head; shrinks towards the first. Raises ValueError if there is none."""
    return choice(supported, "alibis")
