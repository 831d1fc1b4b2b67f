"""Device functions of the softmax: its online form over blocks of keys, and its recomputation in the backward.

Exponents are base 2 with scale * log2(e) folded into one factor: exp2 is the hardware's exponential, and factor and
subtraction become one fused multiply-add a score. `scale_log2` is positive (a negative scale negates q or k instead),
so the largest raw score is also the largest scaled one.
"""
# Device code: its arguments are Triton's values, which have no Python types.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"

import triton.language as tl

from fa2verify.kernels.triton.device import device


@device
def online_softmax(scores, row_max, row_sum, scale_log2):
    """One step of Algorithm 1, line 9 (arXiv 2307.08691), for raw scores (block_m, block_n), -inf where masked.

    row_max  (block_m) the paper's m: running maximum of scores * scale_log2, -inf before the first visible key
    row_sum  (block_m) the paper's l: running sum of exp2(scores * scale_log2 - row_max)

    Returns the probabilities relative to the new maximum, the factor for what was summed relative to the old one, and
    the new maximum and sum.
    """
    new_max = tl.maximum(row_max, tl.max(scores, 1) * scale_log2)
    # A row that has seen no key yet has the maximum -inf, and -inf - -inf is NaN.
    finite_max = tl.where(new_max == float("-inf"), 0.0, new_max)
    p = tl.exp2(scores * scale_log2 - finite_max[:, None])
    rescale = tl.exp2(row_max - finite_max)
    return p, rescale, new_max, row_sum * rescale + tl.sum(p, 1)


@device
def logsumexp(row_max, row_sum):
    """Natural log of the sum of exponentials, Algorithm 1, line 13; -inf for a row that saw no key (-inf, 0)."""
    ln2: tl.constexpr = 0.6931471805599453
    return (row_max + tl.log2(row_sum)) * ln2


@device
def probabilities(scores, lse_log2, scale_log2):
    """P = exp(S - L), Algorithm 2, line 11; `lse_log2` broadcasts against the raw scores and is L * log2(e)."""
    return tl.exp2(scores * scale_log2 - lse_log2)
