"""How tensors lie in memory, where they do not lie plainly."""

from collections.abc import Sequence
from typing import get_args

from hypothesis.strategies import SearchStrategy

from fa2verify.kernels.problem import Layout
from fa2verify.strategies.choice import choice

# From the plainest: what asks for the least besides the strides comes first.
LAYOUTS: tuple[Layout, ...] = tuple(layout for layout in get_args(Layout) if layout != "plain")


def layouts(supported: Sequence[Layout] = LAYOUTS) -> SearchStrategy[Layout]:
    """A layout other than plain; shrinks towards the first. Raises ValueError if there is none."""
    return choice(supported, "layouts")
