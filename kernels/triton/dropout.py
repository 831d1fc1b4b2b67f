"""Device functions of dropout: the mask of `fa2verify.kernels.dropout`, drawn a tile at a time.

The mask is a function of seed and absolute position, so that the backward draws the forward's again, in any order of
blocks, and nothing is stored. One evaluation of Philox gives four words, and they serve four neighbouring keys.
"""
# Device code: its arguments are Triton's values, which have no Python types.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"

import triton.language as tl

from fa2verify.kernels.triton.device import device


@device
def philox(c0, c1, c2, c3, k0, k1):
    """Philox4x32-10 (Salmon et al., SC'11): four uint32 words for each counter; all arguments uint32."""
    for _ in tl.static_range(10):
        # One 32 x 32 to 64 bit multiplication gives both halves.
        product0 = c0.to(tl.uint64) * 0xD2511F53
        product1 = c2.to(tl.uint64) * 0xCD9E8D57
        c0 = (product1 >> 32).to(tl.uint32) ^ c1 ^ k0
        c1 = product1.to(tl.uint32)
        c2 = (product0 >> 32).to(tl.uint32) ^ c3 ^ k1
        c3 = product0.to(tl.uint32)
        k0 = k0 + 0x9E3779B9
        k1 = k1 + 0xBB67AE85
    return c0, c1, c2, c3


@device
def kept(seed, threshold, sequence, head, row, column, block_m: tl.constexpr, block_n: tl.constexpr):
    """Which weights of the tile (block_m, block_n) from query `row` and key `column` are kept.

    seed       int64 scalar
    threshold  floor(probability * 2^32), in the 32 bits of an int32
    column     a multiple of 4
    """
    queries = (row + tl.arange(0, block_m)).to(tl.uint32)[:, None]
    quads = (column // 4 + tl.arange(0, block_n // 4)).to(tl.uint32)[None, :]
    queries, quads = tl.broadcast(queries, quads)
    zero = tl.zeros_like(queries)
    key_low = (seed & 0xFFFFFFFF).to(tl.uint32)
    key_high = (seed >> 32).to(tl.uint32)
    w0, w1, w2, w3 = philox(quads, queries, zero + head.to(tl.uint32), zero + sequence.to(tl.uint32), key_low, key_high)
    limit = threshold.to(tl.uint32, bitcast=True)
    # Word w of quad c belongs to key 4 c + w: even words and odd words are interleaved apart, then with one another.
    even = tl.interleave(w0 >= limit, w2 >= limit)
    odd = tl.interleave(w1 >= limit, w3 >= limit)
    return tl.interleave(even, odd)


@device
def seed_of(dropout_seed):
    """Load the seed, or pass on the None that stands for no dropout."""
    seed = dropout_seed
    if dropout_seed is not None:
        seed = tl.load(dropout_seed)
    return seed
