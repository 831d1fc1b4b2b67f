"""What FlashAttention-2's own code gets wrong, whichever adapter leads to it: torch's copy or the package.

Each was found or confirmed by this suite; docs/findings has the smallest problems. Until a ledger of known failures
runs them and watches for the day that they pass, adapters state them as unsupported.
"""

from fa2verify.kernels.problem import Problem


def window_faults(problem: Problem) -> tuple[str, ...]:
    """A window's right side that reaches past every key, with seqlen_q > seqlen_k (flash-attention issue 895, open).

    The host code takes a right side of at least max_seqlen_k for unbounded, and then an unbounded right side beside a
    bounded left one for max_seqlen_k keys. But the diagonal of the first query lies seqlen_q - seqlen_k in front of the
    first key, so that max_seqlen_k keys to its right need not reach the last.
    """
    left, right = problem.window
    longest = max(problem.seqlens_k)
    reaches_past = right >= longest or (right == -1 and 0 <= left < longest)
    if problem.causal is not None or not reaches_past:
        return ()
    if all(q <= k for q, k in zip(problem.seqlens_q, problem.seqlens_k, strict=True)):
        return ()
    return (
        "flash-attn misplaces a window whose right side is unbounded or at least max_seqlen_k where a sequence has "
        "seqlen_q > seqlen_k (flash-attention issue 895).",
    )


def tail_faults(problem: Problem) -> tuple[str, ...]:
    """Rows past the last packed sequence (flash-attention issue 2324): nothing writes them, gradients included."""
    if not problem.tail:
        return ()
    return (
        "flash-attn leaves rows past the last sequence unwritten, gradients included (flash-attention issue 2324).",
    )


def empty_batch_faults(problem: Problem) -> tuple[str, ...]:
    """Packed tensors without a token: a grid of no blocks (torch 2.11's copy of flash-attn, on an H200)."""
    if not sum(problem.seqlens_q):
        return ("It launches an empty grid where no sequence has a query: CUDA error, invalid argument.",)
    if problem.backward and not sum(problem.seqlens_k):
        return ("Its backward launches an empty grid where no sequence has a key: CUDA error, invalid argument.",)
    return ()
