"""Device functions that modify scores between the product Q K^T and the softmax: softcap and ALiBi.

A raw score times `scale_log2` is the score in base 2. With a softcap c the raw score becomes tanh(s / c), and the
factor that makes it a score is c * log2(e) instead: the softmax need not know. ALiBi's bias is no factor, so with it
the score is complete and the factor left is 1. What a call does not ask for is None and leaves no instruction.

The masks come after: the modified score of an invisible key is finite and replaced.
"""
# Device code: its arguments are Triton's values, which have no Python types.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"

import triton.language as tl

from fa2verify.kernels.triton.device import device


@device
def softcapped(raw, cap_scale):
    """Raw scores, or tanh(raw * cap_scale) with a softcap; `cap_scale` is |softmax scale| / c.

    tanh(x) = 1 - 2 / (1 + exp(2x)): its error is a few roundings of 1, and so is that of the score relative to c. The
    hardware's own tanh is good to 2^-11 only, which is fp16's unit roundoff.
    """
    if cap_scale is not None:
        two_log2e: tl.constexpr = 2.8853900817779268
        raw = 1.0 - 2.0 / (1.0 + tl.exp2(raw * (cap_scale * two_log2e)))
    return raw


@device
def through_softcap(ds, capped, cap_scale):
    """Gradient before the softcap from the one after it: d(c tanh(s / c)) / ds = 1 - tanh^2."""
    if cap_scale is not None:
        ds = ds * (1.0 - capped * capped)
    return ds


@device
def biased(scores, queries, keys, diagonal, scale_log2, slope_log2):
    """(scores, factor): with ALiBi, scores in base 2 less slope * |i + diagonal - j|, and 1; else what was given.

    queries, keys  indices that broadcast to the scores' shape
    slope_log2     the head's slope * log2(e), or None
    """
    factor = scale_log2
    if slope_log2 is not None:
        distance = tl.abs(queries + diagonal - keys).to(tl.float32)
        scores = scores * scale_log2 - slope_log2 * distance
        factor = 1.0
    return scores, factor


@device
def slope_of(alibi_slopes, alibi_sequence_stride, sequence, head):
    """Slope of one head times log2(e), or None without ALiBi; `alibi_slopes` is fp32 (heads) or (batch, heads)."""
    slope = alibi_slopes
    if alibi_slopes is not None:
        log2e: tl.constexpr = 1.4426950408889634
        slope = tl.load(alibi_slopes + sequence.to(tl.int64) * alibi_sequence_stride + head) * log2e
    return slope
