"""Floating-point operations of an attention call, counted as published tables count them.

Two products of 2 S_q S_k d operations a head forward; half of that if causal, as FlashAttention's benchmark has it (the
exact share of the lower triangle is (S + 1) / 2S); five products backward. What a kernel recomputes beyond that does
not count, nor does the softmax.
"""

from fa2verify.kernels.problem import Problem
from fa2verify.reports.benchmark_record import Direction

_SHARES: dict[Direction, float] = {"forward": 1.0, "backward": 2.5, "both": 3.5}


def operations(problem: Problem, direction: Direction) -> float:
    """Operations of one call. Raises ValueError for a window, for which no convention exists."""
    if problem.window != (-1, -1):
        raise ValueError(f"window {problem.window}: no published convention counts a window's operations")
    forward = 4.0 * problem.scores * problem.head_dim * (0.5 if problem.causal is not None else 1.0)
    return forward * _SHARES[direction]
