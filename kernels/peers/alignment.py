"""Whether a kernel that has one alignment of the diagonal can be asked for a problem's.

Most kernels have one: flash-attn since 2.1 bottom-right, before that top-left. Where seqlen_q == seqlen_k in every
sequence both are the same, and then such a kernel must pass under either name.
"""

from fa2verify.kernels.problem import Causal, Problem


def misaligned(problem: Problem, alignment: Causal) -> tuple[str, ...]:
    """Why a kernel whose diagonal is always `alignment` does not take `problem`, in sentences; empty if it does."""
    if problem.causal is None and problem.window == (-1, -1) and problem.alibi is None:
        return ()
    lengths = zip(problem.seqlens_q, problem.seqlens_k, strict=True)
    own = [0 if alignment == "top_left" else k - q for q, k in lengths]
    if all(problem.diagonal(index) == diagonal for index, diagonal in enumerate(own)):
        return ()
    ours, theirs = ("top-left", "bottom-right") if alignment == "top_left" else ("bottom-right", "top-left")
    reason = f"Its diagonal (causal, window, ALiBi) is {ours} and the problem's is {theirs}"
    return (f"{reason}: the same only where seqlen_q == seqlen_k.",)
