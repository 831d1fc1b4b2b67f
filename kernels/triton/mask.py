"""Device functions that say which keys a query sees, for single scores and for whole blocks.

Query i of a sequence sees key j if i + lower <= j <= i + upper. A causal mask is an upper end of `diagonal`, which is 0
under top-left alignment and seqlen_k - seqlen_q otherwise; a window (left, right) is the ends diagonal - left and
diagonal + right. The ends are numbers at run time, so that one compiled kernel serves both alignments and every window;
an end that is None, because nothing bounds that side, is dropped by the compiler together with its comparisons.

A block is in one of three states: no score visible (not visited), some (`visible` is applied), all (no mask arithmetic
at all). Blocks that keys or queries walk over therefore fall into at most three runs: some, all, some.
"""
# Device code: its arguments are Triton's values, which have no Python types.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"

import triton.language as tl

from fa2verify.kernels.triton.device import device


@device
def diagonal_of(length_q, length_k, bottom_right):
    """Return what is added to a query's index to give the key on its diagonal."""
    return bottom_right * (length_k - length_q)


@device
def lower_of(diagonal, window_left):
    """Return the first key that a query sees, relative to its index; None if `window_left` is."""
    lower = window_left
    if window_left is not None:
        lower = diagonal - window_left
    return lower


@device
def upper_of(diagonal, window_right):
    """Return the last key that a query sees, relative to its index; None if `window_right` is."""
    upper = window_right
    if window_right is not None:
        upper = diagonal + window_right
    return upper


@device
def visible(queries, keys, length_k, lower, upper):
    """Whether each query sees each key; `queries` and `keys` are indices that broadcast against one another."""
    mask = keys < length_k
    if upper is not None:
        mask = mask & (keys <= queries + upper)
    if lower is not None:
        mask = mask & (keys >= queries + lower)
    return mask


@device
def key_range(row, length_q, length_k, lower, upper, block_m: tl.constexpr, block_n: tl.constexpr):
    """(begin, full_begin, full_end, end) for the queries from `row`.

    None of them sees a key outside [begin, end), all of them see those of [full_begin, full_end), an empty run where it
    ends before it begins. All but `end` are multiples of block_n.
    """
    last = tl.minimum(row + block_m, length_q) - 1
    begin = 0
    full_begin = 0
    full_end = length_k
    end = length_k
    if lower is not None:
        begin = tl.maximum(row + lower, 0) // block_n * block_n
        full_begin = (tl.maximum(last + lower, 0) + block_n - 1) // block_n * block_n
    if upper is not None:
        full_end = tl.minimum(length_k, tl.maximum(row + upper + 1, 0))
        end = tl.minimum(length_k, tl.maximum(last + upper + 1, 0))
    return begin, full_begin, full_end // block_n * block_n, end


@device
def query_range(column, length_q, length_k, lower, upper, block_m: tl.constexpr, block_n: tl.constexpr):
    """(begin, full_begin, full_end, end) for the keys from `column`.

    None of them is seen by a query outside [begin, end), all of them are by those of [full_begin, full_end), an empty
    run where it ends before it begins. `begin` and `full_begin` are multiples of block_m, and so is `full_end` unless
    it is length_q: queries past it add nothing and need no mask.
    """
    last = tl.minimum(column + block_n, length_k) - 1
    begin = 0
    full_begin = 0
    full_end = length_q
    end = length_q
    if upper is not None:
        begin = tl.maximum(column - upper, 0) // block_m * block_m
        full_begin = (tl.maximum(last - upper, 0) + block_m - 1) // block_m * block_m
    if lower is not None:
        full_end = tl.minimum(length_q, tl.maximum(column - lower + 1, 0)) // block_m * block_m
        end = tl.minimum(length_q, tl.maximum(last - lower + 1, 0))
    return begin, full_begin, full_end, end
