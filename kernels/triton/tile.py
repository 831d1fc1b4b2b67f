"""Device functions that move a tile (rows x head_dim) between global memory and registers.

head_dim is padded to the next block_d by masking loads and stores, never by copying a tensor: the padding reads as zero
and adds nothing to q k^T, and its columns of the result are not stored. Whatever lies there in memory is not touched.
"""
# Device code: its arguments are Triton's values, which have no Python types.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"

import triton.language as tl

from fa2verify.kernels.triton.device import device
from fa2verify.kernels.triton.precision import operand, storable


@device
def tile_pointers(base, row_stride, block: tl.constexpr, block_d: tl.constexpr, aligned: tl.constexpr):
    """Addresses (block, block_d) of the tile whose first row is at `base`; `row_stride` in elements."""
    # 64 bits: a row's index times its stride passes 2^31 in large tensors. It is computed once, outside the loops.
    rows = tl.arange(0, block).to(tl.int64)
    dims = tl.arange(0, block_d)
    pointers = base + rows[:, None] * row_stride + dims[None, :]
    if aligned:
        # Strides are not specialised, so the compiler cannot know that 16-byte accesses are legal unless told.
        pointers = tl.multiple_of(pointers, (1, 16))
    return pointers


@device
def load_tile(pointers, row, length, head_dim, ragged: tl.constexpr, full: tl.constexpr):
    """Load (block, block_d) elements as a matrix operand; zero past `head_dim` and, if `ragged`, past `length` rows.

    row     index of the tile's first row in its sequence
    length  rows of the sequence
    ragged  whether the tile may pass the sequence's end
    full    whether head_dim is block_d, so that no column needs a mask
    """
    if full:
        if ragged:
            rows = row + tl.arange(0, pointers.shape[0])
            x = tl.load(pointers, mask=(rows < length)[:, None], other=0.0)
        else:
            x = tl.load(pointers)
    else:
        mask = (tl.arange(0, pointers.shape[1]) < head_dim)[None, :]
        if ragged:
            rows = row + tl.arange(0, pointers.shape[0])
            mask = mask & (rows < length)[:, None]
        x = tl.load(pointers, mask=mask, other=0.0)
    return operand(x)


@device
def source_of(
    x,
    begin,
    sequence_stride,
    head,
    head_stride,
    row_stride,
    descriptors: tl.constexpr,
    aligned: tl.constexpr,
    block: tl.constexpr,
    block_d: tl.constexpr,
):
    """Return what `load_from` loads tiles of one head of a sequence from.

    Without `descriptors` the addresses of the tile at row 0; with them `x`, a descriptor of (sequence, head, row,
    head_dim) with boxes (1, 1, block, block_d).
    """
    source = x
    if not descriptors:
        source = tile_pointers(x + begin * sequence_stride + head * head_stride, row_stride, block, block_d, aligned)
    return source


@device
def load_from(
    source,
    row_stride,
    sequence,
    head,
    row,
    length,
    head_dim,
    descriptors: tl.constexpr,
    ragged: tl.constexpr,
    full: tl.constexpr,
    block: tl.constexpr,
    block_d: tl.constexpr,
):
    """Load the tile at `row`, as `load_tile` does; a descriptor reads zero past a sequence's end and past head_dim."""
    if descriptors:
        box = source.load([sequence.to(tl.int32), head.to(tl.int32), row, 0])
        x = operand(box.reshape(block, block_d))
    else:
        x = load_tile(source + row * row_stride, row, length, head_dim, ragged, full)
    return x


@device
def store_tile(pointers, x, row, length, head_dim, full: tl.constexpr):
    """Round (block, block_d) fp32 values to the pointers' type and store what lies within `length` and `head_dim`."""
    rows = row + tl.arange(0, pointers.shape[0])
    mask = (rows < length)[:, None]
    if not full:
        mask = mask & (tl.arange(0, pointers.shape[1]) < head_dim)[None, :]
    tl.store(pointers, storable(x, pointers.dtype.element_ty), mask=mask)


@device
def padded_head_dim(head_dim, aligned: tl.constexpr):
    """Show the compiler that an aligned `head_dim` is a multiple of 8, so that a mask covers whole 16-byte chunks."""
    if aligned:
        head_dim = head_dim // 8 * 8
    return head_dim
