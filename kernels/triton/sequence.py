"""Device functions that find a program's work: which sequence, head and block, and where they begin.

The grid is one-dimensional because its y and z dimensions end at 65,535, which batch * heads may pass. Blocks of one
head are neighbours, so that they find its keys and values in L2.
"""
# Device code: its arguments are Triton's values, which have no Python types.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"

import triton.language as tl

from fa2verify.kernels.triton.device import device


@device
def program_work(blocks, heads):
    """(block, head, sequence) of this program, the last blocks first."""
    pid = tl.program_id(0)
    # Under a causal mask the last query blocks see the most keys: starting them first shortens the tail of the grid.
    block = blocks - 1 - pid % blocks
    rest = pid // blocks
    return block, rest % heads, rest // heads


@device
def sequence_extent(cu_seqlens, seqlen, sequence, varlen: tl.constexpr):
    """(begin, length) of a sequence; `begin * sequence_stride` is its offset in elements, 64 bits wide.

    Dense: begin is the sequence's index and sequence_stride the batch stride. Varlen: begin is its first row in the
    packed tensor and sequence_stride the row stride.
    """
    if varlen:
        first = tl.load(cu_seqlens + sequence)
        length = tl.load(cu_seqlens + sequence + 1) - first
        begin = first.to(tl.int64)
    else:
        length = seqlen
        begin = sequence.to(tl.int64)
    return begin, length
