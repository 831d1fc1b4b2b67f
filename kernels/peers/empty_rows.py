"""Whether some query sees no key: the rows on which kernels differ (0, NaN or the mean of V).

Computed from the lengths, not from a mask: `unsupported` is asked for every drawn problem and must cost nothing.
"""

from fa2verify.kernels.problem import Problem


def has_empty_rows(problem: Problem) -> bool:
    """Whether, in some sequence, some query sees no key, by mask or because there is none."""
    return any(
        q > 0 and _hidden(problem, q, k, problem.diagonal(index))
        for index, (q, k) in enumerate(zip(problem.seqlens_q, problem.seqlens_k, strict=True))
    )


def _hidden(problem: Problem, seqlen_q: int, seqlen_k: int, diagonal: int) -> bool:
    # Query i sees keys from i + diagonal - left to i + diagonal + right. Both ends grow with i and the range is never
    # empty by itself, so only the first query can end before key 0 and only the last can begin after the last key.
    left, right = problem.window
    if problem.causal is not None:
        right = 0
    ends_before = right >= 0 and diagonal + right < 0
    begins_after = left >= 0 and seqlen_q - 1 + diagonal - left > seqlen_k - 1
    return seqlen_k == 0 or ends_before or begins_after
