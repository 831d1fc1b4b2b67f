"""out, dq, dk and dv, and lse where the kernel gives it."""

from collections.abc import Callable
from typing import Final

from fa2verify.kernels.problem import Direction
from fa2verify.verify.run.plan import Part

DIRECTION: Final[Direction] = "forward_backward"


def test_dense(part: Part, verify_part: Callable[[Part], None]) -> None:
    """Equal lengths: tensors are (batch, seqlen, heads, head_dim)."""
    verify_part(part)


def test_varlen(part: Part, verify_part: Callable[[Part], None]) -> None:
    """Sequences of their own lengths, packed one after the other: tensors are (total, heads, head_dim)."""
    verify_part(part)
