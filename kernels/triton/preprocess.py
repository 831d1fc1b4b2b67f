"""What the backward needs a row before it starts: D = rowsum(dO * O) (Algorithm 2, line 4) and lse in base 2.

Both are one fp32 number a row. Computing them once keeps O out of the backward's loops. A gradient that arrives through
lse adds P * dlse to dS, so it is subtracted from D: dS = P * (dP - D + dlse).
"""
# Device code: its arguments are Triton's values, which have no Python types.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"

from functools import lru_cache

import triton
import triton.language as tl
from torch import Tensor

from fa2verify.kernels.interface.call import Call
from fa2verify.kernels.interface.signature import MOST, Layout, placed
from fa2verify.kernels.triton.arguments import arguments, padded_block_d
from fa2verify.kernels.triton.choice import configuration
from fa2verify.kernels.triton.configuration import Configuration
from fa2verify.kernels.triton.launch import Launch, prepare
from fa2verify.kernels.triton.sequence import program_work, sequence_extent
from fa2verify.kernels.triton.specialisation import UNSPECIALISED
from fa2verify.kernels.triton.tile import load_tile, padded_head_dim, tile_pointers


def preprocess(
    call: Call, out: Tensor, dout: Tensor, lse: Tensor, dlse: Tensor | None, delta: Tensor, lse_log2: Tensor
) -> None:
    """Fill `delta` and `lse_log2`; both, `lse` and `dlse` are contiguous fp32 and shaped like lse."""
    config = configuration("preprocess", padded_block_d(call.head_dim), out.device)
    tensors: dict[str, Tensor | None] = {"out": out, "dout": dout, "lse": lse, "dlse": dlse, "delta": delta}
    tensors |= {"lse_log2": lse_log2, **call.tensors}
    _prepare(call.plain, placed(tensors)[0], config)(tensors, out.device, out.dtype)


@lru_cache(maxsize=MOST)
def _prepare(call: Call, layouts: tuple[Layout, ...], config: Configuration) -> Launch:
    blocks = triton.cdiv(call.seqlen_q, config.block_m)
    given = arguments(call, layouts)
    given["has_dlse"] = any(name == "dlse" for name, *_ in layouts)
    return prepare(preprocess_kernel, (blocks, call.heads_q, call.batch), config, given)


@triton.jit(do_not_specialize=UNSPECIALISED)
def preprocess_kernel(
    out,  # (sequence, row, head, head_dim) through its strides, as dout
    dout,
    lse,  # fp32 (sequence, head, row), as dlse, delta and lse_log2
    dlse,
    delta,
    lse_log2,
    cu_seqlens_q,
    out_sequence_stride,
    out_row_stride,
    out_head_stride,
    dout_sequence_stride,
    dout_row_stride,
    dout_head_stride,
    lse_sequence_stride,
    lse_head_stride,
    blocks,
    seqlen_q,
    heads_q,
    head_dim,
    has_dlse: tl.constexpr,
    varlen: tl.constexpr,
    aligned: tl.constexpr,
    full: tl.constexpr,
    block_m: tl.constexpr,
    block_d: tl.constexpr,
):
    """One block of rows of one head."""
    block, head, sequence = program_work(blocks, heads_q)
    begin, length = sequence_extent(cu_seqlens_q, seqlen_q, sequence, varlen)
    row = block * block_m
    if row >= length:
        return
    head_dim = padded_head_dim(head_dim, aligned)
    head = head.to(tl.int64)
    out_row_stride = out_row_stride.to(tl.int64)
    dout_row_stride = dout_row_stride.to(tl.int64)
    out += begin * out_sequence_stride + head * out_head_stride + row * out_row_stride
    dout += begin * dout_sequence_stride + head * dout_head_stride + row * dout_row_stride
    out_tile = load_tile(
        tile_pointers(out, out_row_stride, block_m, block_d, aligned), row, length, head_dim, True, full
    )
    dout_tile = load_tile(
        tile_pointers(dout, dout_row_stride, block_m, block_d, aligned), row, length, head_dim, True, full
    )
    row_delta = tl.sum(out_tile.to(tl.float32) * dout_tile.to(tl.float32), 1)

    rows = row + tl.arange(0, block_m)
    offsets = begin * lse_sequence_stride + head * lse_head_stride + rows
    inside = rows < length
    if has_dlse:
        row_delta -= tl.load(dlse + offsets, mask=inside, other=0.0)
    tl.store(delta + offsets, row_delta, mask=inside)
    log2e: tl.constexpr = 1.4426950408889634
    row_lse = tl.load(lse + offsets, mask=inside, other=0.0)
    # -inf, of a row that sees no key, stays: such a row lies in masked blocks alone, which set its probabilities to 0.
    tl.store(lse_log2 + offsets, row_lse * log2e, mask=inside)
