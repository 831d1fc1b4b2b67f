"""Rows of packed tensors past the last sequence: what FlashAttention-2's own code does with them, in any copy."""

from fa2verify.kernels.problem import Problem


def tail_faults(problem: Problem) -> tuple[str, ...]:
    """Rows past the last packed sequence (flash-attention issue 2324): nothing writes them, gradients included."""
    if not problem.tail:
        return ()
    return (
        "flash-attn leaves rows past the last sequence unwritten, gradients included (flash-attention issue 2324).",
    )
