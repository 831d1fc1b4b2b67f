"""Head dimensions: the common ones, and the odd ones that fall between a kernel's variants."""

from collections.abc import Sequence

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

COMMON = (32, 64, 80, 96, 128, 192, 256)


def head_dims(limit: int = 256) -> tuple[int, ...]:
    """Every head dimension from 1 to `limit`, from the plainest: multiples of 8 first, then the others, ascending.

    A row of 8 elements is 16 bytes, which every kernel moves at once, and other dimensions take a path of their own: a
    problem shrinks onto that path only if the failure is on it.
    """
    every = range(1, limit + 1)
    return (*(dim for dim in every if dim % 8 == 0), *(dim for dim in every if dim % 8))


def drawn_head_dims(supported: Sequence[int]) -> SearchStrategy[int]:
    """One of `supported`, half of them common ones and a quarter odd ones.

    Shrinks towards the smallest multiple of 8, else towards the smallest. Raises ValueError if there is none.
    """
    if not supported:
        raise ValueError("supported: no head dimension to draw; at least one is needed")
    every = sorted(supported)
    aligned = [dim for dim in every if dim % 8 == 0] or every
    common = [dim for dim in COMMON if dim in supported] or every
    return _head_dims(st.sampled_from((aligned, common, common, every)), len(every))


@st.composite
def _head_dims(draw: DrawFn, tables: SearchStrategy[Sequence[int]], places: int) -> int:
    # As for lengths: the same place in a plainer table holds a dimension of about the size.
    table = draw(tables)
    return table[draw(st.integers(0, places - 1)) * len(table) // places]
