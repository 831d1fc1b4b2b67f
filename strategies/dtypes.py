"""The dtype of q, k, v, out and the gradients."""

from collections.abc import Sequence
from typing import get_args

from hypothesis.strategies import SearchStrategy

from fa2verify.kernels.problem import DType
from fa2verify.strategies.choice import choice

DTYPES: tuple[DType, ...] = get_args(DType)


def dtypes(supported: Sequence[DType] = DTYPES) -> SearchStrategy[DType]:
    """One of `supported`; shrinks towards the first, float16 by default. Raises ValueError if there is none."""
    return choice(supported, "dtypes")
