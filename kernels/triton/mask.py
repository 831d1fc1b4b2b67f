"""Device functions that say which keys a query sees, for single scores and for whole blocks.

Under a causal mask query i of a sequence sees key j if j <= i + diagonal, where diagonal is 0 under top-left alignment
and seqlen_k - seqlen_q under bottom-right. It is a number at run time, so that one compiled kernel serves both. A block
is in one of three states: no score visible (not visited), some (`visible` is applied), all (no mask arithmetic at all).
"""
# Device code: its arguments are Triton's values, which have no Python types.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"

import triton.language as tl

from fa2verify.kernels.triton.device import device


@device
def diagonal_of(length_q, length_k, bottom_right):
    """Return what is added to a query's index to give the last key that it sees."""
    return bottom_right * (length_k - length_q)


@device
def visible(queries, keys, length_k, diagonal, causal: tl.constexpr):
    """Whether each query sees each key; `queries` and `keys` are indices that broadcast against one another."""
    mask = keys < length_k
    if causal:
        mask = mask & (keys <= queries + diagonal)
    return mask


@device
def key_range(row, length_q, length_k, diagonal, causal: tl.constexpr, block_m: tl.constexpr, block_n: tl.constexpr):
    """(full, end) for the queries from `row`: all of them see keys [0, full), none sees a key from `end` on.

    full is a multiple of block_n and at most end.
    """
    full = length_k
    end = length_k
    if causal:
        last = tl.minimum(row + block_m, length_q) - 1
        full = tl.minimum(length_k, tl.maximum(row + diagonal + 1, 0))
        end = tl.minimum(length_k, tl.maximum(last + diagonal + 1, 0))
    return full // block_n * block_n, end


@device
def query_range(column, length_k, diagonal, causal: tl.constexpr, block_m: tl.constexpr, block_n: tl.constexpr):
    """(begin, full) for the keys from `column`: no query before `begin` sees one, every query from `full` on sees all.

    Both are multiples of block_m; either may pass the last query.
    """
    begin = 0
    full = 0
    if causal:
        last = tl.minimum(column + block_n, length_k) - 1
        begin = tl.maximum(column - diagonal, 0) // block_m * block_m
        full = (tl.maximum(last - diagonal, 0) + block_m - 1) // block_m * block_m
    return begin, full
