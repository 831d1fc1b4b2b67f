"""The backward kernels: Algorithm 2 of FlashAttention-2 (arXiv 2307.08691), split in two.

The paper computes dQ, dK and dV in one kernel, adding each key block's share of dQ with atomics, in no fixed order.
Here one kernel owns a block of keys and sums dK and dV over the queries, another owns a block of queries and sums dQ
over the keys. S is computed twice; in exchange every sum has one order (two runs give the same bits), dQ needs no fp32
buffer, and the heads of a group add up in registers, so that dK and dV need no copy a query head.
"""
# Device code: its arguments are Triton's values, which have no Python types.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"

import triton
import triton.language as tl
from torch import Tensor

from fa2verify.kernels.triton.call import Call
from fa2verify.kernels.triton.configuration import configuration
from fa2verify.kernels.triton.device import device
from fa2verify.kernels.triton.launch import launch
from fa2verify.kernels.triton.mask import diagonal_of, key_range, query_range, visible
from fa2verify.kernels.triton.precision import rounded
from fa2verify.kernels.triton.sequence import program_work, sequence_extent
from fa2verify.kernels.triton.softmax import probabilities
from fa2verify.kernels.triton.specialisation import UNSPECIALISED
from fa2verify.kernels.triton.tile import load_tile, padded_head_dim, store_tile, tile_pointers


def backward_dkdv(
    call: Call, q: Tensor, k: Tensor, v: Tensor, dout: Tensor, lse_log2: Tensor, delta: Tensor, dk: Tensor, dv: Tensor
) -> None:
    """Fill `dk` and `dv`, like k and v. `lse_log2` and `delta` are `preprocess`'s."""
    config = configuration("backward_dkdv", call.block_d, q.device)
    blocks = triton.cdiv(call.seqlen_k, config.block_n)
    tensors = {"q": q, "k": k, "v": v, "dout": dout, "dk": dk, "dv": dv}
    launch(
        backward_dkdv_kernel,
        (blocks, call.heads_kv, call.batch),
        config,
        tensors | {"lse_log2": lse_log2, "delta": delta},
        call.arguments(tensors) | call.lse_strides(delta),
    )


def backward_dq(
    call: Call, q: Tensor, k: Tensor, v: Tensor, dout: Tensor, lse_log2: Tensor, delta: Tensor, dq: Tensor
) -> None:
    """Fill `dq`, like q. `lse_log2` and `delta` are `preprocess`'s."""
    config = configuration("backward_dq", call.block_d, q.device)
    blocks = triton.cdiv(call.seqlen_q, config.block_m)
    tensors = {"q": q, "k": k, "v": v, "dout": dout, "dq": dq}
    launch(
        backward_dq_kernel,
        (blocks, call.heads_q, call.batch),
        config,
        tensors | {"lse_log2": lse_log2, "delta": delta},
        call.arguments(tensors) | call.lse_strides(delta),
    )


@triton.jit(do_not_specialize=UNSPECIALISED)
def backward_dkdv_kernel(
    q,  # (sequence, row, head, head_dim) through its strides, as all but the next two
    k,
    v,
    dout,
    lse_log2,  # fp32 (sequence, head, row)
    delta,
    dk,
    dv,
    cu_seqlens_q,
    cu_seqlens_k,
    q_sequence_stride,
    q_row_stride,
    q_head_stride,
    k_sequence_stride,
    k_row_stride,
    k_head_stride,
    v_sequence_stride,
    v_row_stride,
    v_head_stride,
    dout_sequence_stride,
    dout_row_stride,
    dout_head_stride,
    dk_sequence_stride,
    dk_row_stride,
    dk_head_stride,
    dv_sequence_stride,
    dv_row_stride,
    dv_head_stride,
    lse_sequence_stride,
    lse_head_stride,
    blocks,
    seqlen_q,
    seqlen_k,
    heads_q,
    heads_kv,
    head_dim,
    bottom_right,
    scale,
    scale_log2,
    negative: tl.constexpr,
    causal: tl.constexpr,
    varlen: tl.constexpr,
    aligned: tl.constexpr,
    full: tl.constexpr,
    block_m: tl.constexpr,
    block_n: tl.constexpr,
    block_d: tl.constexpr,
):
    """One block of keys of one key head, over all query heads of its group."""
    block, head_kv, sequence = program_work(blocks, heads_kv)
    begin_q, length_q = sequence_extent(cu_seqlens_q, seqlen_q, sequence, varlen)
    begin_k, length_k = sequence_extent(cu_seqlens_k, seqlen_k, sequence, varlen)
    column = block * block_n
    if column >= length_k:
        return
    head_dim = padded_head_dim(head_dim, aligned)
    group = heads_q // heads_kv
    first_head = head_kv * group
    head_kv = head_kv.to(tl.int64)
    q_row_stride = q_row_stride.to(tl.int64)
    dout_row_stride = dout_row_stride.to(tl.int64)
    k_row_stride = k_row_stride.to(tl.int64)
    v_row_stride = v_row_stride.to(tl.int64)
    dk_row_stride = dk_row_stride.to(tl.int64)
    dv_row_stride = dv_row_stride.to(tl.int64)

    k += begin_k * k_sequence_stride + head_kv * k_head_stride + column * k_row_stride
    v += begin_k * v_sequence_stride + head_kv * v_head_stride + column * v_row_stride
    # K and V stay for the whole program. Rows past length_k read as zero; their rows of dK and dV are not stored.
    k_tile = load_tile(
        tile_pointers(k, k_row_stride, block_n, block_d, aligned), column, length_k, head_dim, True, full
    )
    v_tile = load_tile(
        tile_pointers(v, v_row_stride, block_n, block_d, aligned), column, length_k, head_dim, True, full
    )
    if negative:
        k_tile = -k_tile

    dk_acc = tl.zeros([block_n, block_d], tl.float32)
    dv_acc = tl.zeros([block_n, block_d], tl.float32)
    diagonal = diagonal_of(length_q, length_k, bottom_right)
    seen_by_some, seen_by_all = query_range(column, length_k, diagonal, causal, block_m, block_n)
    for member in tl.range(0, group):
        head = (first_head + member).to(tl.int64)
        q_pointers = tile_pointers(
            q + begin_q * q_sequence_stride + head * q_head_stride, q_row_stride, block_m, block_d, aligned
        )
        dout_pointers = tile_pointers(
            dout + begin_q * dout_sequence_stride + head * dout_head_stride, dout_row_stride, block_m, block_d, aligned
        )
        row_offset = begin_q * lse_sequence_stride + head * lse_head_stride
        if causal:
            dk_acc, dv_acc = _gather_queries(
                dk_acc, dv_acc, k_tile, v_tile, q_pointers, dout_pointers, lse_log2 + row_offset, delta + row_offset,
                q_row_stride, dout_row_stride, column, seen_by_some, tl.minimum(seen_by_all, length_q),
                length_q, length_k, head_dim, diagonal, scale_log2, True, full, block_m, block_n,
            )  # fmt: skip
        dk_acc, dv_acc = _gather_queries(
            dk_acc, dv_acc, k_tile, v_tile, q_pointers, dout_pointers, lse_log2 + row_offset, delta + row_offset,
            q_row_stride, dout_row_stride, column, seen_by_all, length_q,
            length_q, length_k, head_dim, diagonal, scale_log2, False, full, block_m, block_n,
        )  # fmt: skip

    dk += begin_k * dk_sequence_stride + head_kv * dk_head_stride + column * dk_row_stride
    dv += begin_k * dv_sequence_stride + head_kv * dv_head_stride + column * dv_row_stride
    dk_pointers = tile_pointers(dk, dk_row_stride, block_n, block_d, aligned)
    dv_pointers = tile_pointers(dv, dv_row_stride, block_n, block_d, aligned)
    # S = scale * Q K^T, so dK = scale * dS^T Q: one factor at the end instead of one a score.
    store_tile(dk_pointers, dk_acc * scale, column, length_k, head_dim, full)
    store_tile(dv_pointers, dv_acc, column, length_k, head_dim, full)


@device
def _gather_queries(
    dk_acc,  # (block_n, block_d) fp32
    dv_acc,  # (block_n, block_d) fp32
    k_tile,  # (block_n, block_d)
    v_tile,  # (block_n, block_d)
    q_pointers,  # (block_m, block_d)
    dout_pointers,  # (block_m, block_d)
    lse_log2,  # row 0 of this head
    delta,
    q_row_stride,
    dout_row_stride,
    column,
    begin,
    end,
    length_q,
    length_k,
    head_dim,
    diagonal,
    scale_log2,
    masked: tl.constexpr,
    full: tl.constexpr,
    block_m: tl.constexpr,
    block_n: tl.constexpr,
):
    """Algorithm 2, lines 10 to 16 without dQ, over the queries [begin, end).

    Scores are computed transposed, keys down and queries across: P^T and dS^T are then left operands of the products
    that give dV and dK, which the tensor cores take from registers.
    """
    dtype: tl.constexpr = q_pointers.dtype.element_ty
    keys = column + tl.arange(0, block_n)
    for row in tl.range(begin, end, block_m):
        rows = row + tl.arange(0, block_m)
        inside = rows < length_q
        # S^T = K Q^T  (line 10), (block_n, block_m), raw
        q_tile = load_tile(q_pointers + row * q_row_stride, row, length_q, head_dim, True, full)
        scores = tl.dot(k_tile, tl.trans(q_tile))
        # Rows past length_q need no mask: their dO and D read as 0, so that they add 0 to dV and dK.
        row_lse = tl.load(lse_log2 + rows, mask=inside, other=0.0)
        p = probabilities(scores, row_lse[None, :], scale_log2)
        if masked:
            p = tl.where(visible(rows[None, :], keys[:, None], length_k, diagonal, True), p, 0.0)
        # dV += P^T dO  (line 12)
        dout_tile = load_tile(dout_pointers + row * dout_row_stride, row, length_q, head_dim, True, full)
        dv_acc = tl.dot(rounded(p, dtype), dout_tile, dv_acc)
        # dP^T = V dO^T  (line 13); dS = P * (dP - D)  (line 14)
        dp = tl.dot(v_tile, tl.trans(dout_tile))
        row_delta = tl.load(delta + rows, mask=inside, other=0.0)
        ds = p * (dp - row_delta[None, :])
        # dK += dS^T Q  (line 16)
        dk_acc = tl.dot(rounded(ds, dtype), q_tile, dk_acc)
    return dk_acc, dv_acc


@triton.jit(do_not_specialize=UNSPECIALISED)
def backward_dq_kernel(
    q,  # (sequence, row, head, head_dim) through its strides, as all but the next two
    k,
    v,
    dout,
    lse_log2,  # fp32 (sequence, head, row)
    delta,
    dq,
    cu_seqlens_q,
    cu_seqlens_k,
    q_sequence_stride,
    q_row_stride,
    q_head_stride,
    k_sequence_stride,
    k_row_stride,
    k_head_stride,
    v_sequence_stride,
    v_row_stride,
    v_head_stride,
    dout_sequence_stride,
    dout_row_stride,
    dout_head_stride,
    dq_sequence_stride,
    dq_row_stride,
    dq_head_stride,
    lse_sequence_stride,
    lse_head_stride,
    blocks,
    seqlen_q,
    seqlen_k,
    heads_q,
    heads_kv,
    head_dim,
    bottom_right,
    scale,
    scale_log2,
    negative: tl.constexpr,
    causal: tl.constexpr,
    varlen: tl.constexpr,
    aligned: tl.constexpr,
    full: tl.constexpr,
    block_m: tl.constexpr,
    block_n: tl.constexpr,
    block_d: tl.constexpr,
):
    """One block of queries of one head."""
    block, head, sequence = program_work(blocks, heads_q)
    begin_q, length_q = sequence_extent(cu_seqlens_q, seqlen_q, sequence, varlen)
    begin_k, length_k = sequence_extent(cu_seqlens_k, seqlen_k, sequence, varlen)
    row = block * block_m
    if row >= length_q:
        return
    head_dim = padded_head_dim(head_dim, aligned)
    head_kv = (head // (heads_q // heads_kv)).to(tl.int64)
    head = head.to(tl.int64)
    q_row_stride = q_row_stride.to(tl.int64)
    k_row_stride = k_row_stride.to(tl.int64)
    v_row_stride = v_row_stride.to(tl.int64)
    dout_row_stride = dout_row_stride.to(tl.int64)
    dq_row_stride = dq_row_stride.to(tl.int64)

    q += begin_q * q_sequence_stride + head * q_head_stride + row * q_row_stride
    dout += begin_q * dout_sequence_stride + head * dout_head_stride + row * dout_row_stride
    k += begin_k * k_sequence_stride + head_kv * k_head_stride
    v += begin_k * v_sequence_stride + head_kv * v_head_stride
    q_tile = load_tile(tile_pointers(q, q_row_stride, block_m, block_d, aligned), row, length_q, head_dim, True, full)
    dout_tile = load_tile(
        tile_pointers(dout, dout_row_stride, block_m, block_d, aligned), row, length_q, head_dim, True, full
    )
    if negative:
        q_tile = -q_tile
    rows = row + tl.arange(0, block_m)
    row_offset = begin_q * lse_sequence_stride + head * lse_head_stride
    row_lse = tl.load(lse_log2 + row_offset + rows, mask=rows < length_q, other=0.0)
    row_delta = tl.load(delta + row_offset + rows, mask=rows < length_q, other=0.0)
    k_pointers = tile_pointers(k, k_row_stride, block_n, block_d, aligned)
    v_pointers = tile_pointers(v, v_row_stride, block_n, block_d, aligned)

    dq_acc = tl.zeros([block_m, block_d], tl.float32)
    diagonal = diagonal_of(length_q, length_k, bottom_right)
    visible_to_all, visible_to_some = key_range(row, length_q, length_k, diagonal, causal, block_m, block_n)
    dq_acc = _gather_keys(
        dq_acc, q_tile, dout_tile, row_lse, row_delta, k_pointers, v_pointers, k_row_stride, v_row_stride,
        row, 0, visible_to_all, length_k, head_dim, diagonal, scale_log2,
        False, causal, full, block_m, block_n,
    )  # fmt: skip
    dq_acc = _gather_keys(
        dq_acc, q_tile, dout_tile, row_lse, row_delta, k_pointers, v_pointers, k_row_stride, v_row_stride,
        row, visible_to_all, visible_to_some, length_k, head_dim, diagonal, scale_log2,
        True, causal, full, block_m, block_n,
    )  # fmt: skip

    dq += begin_q * dq_sequence_stride + head * dq_head_stride + row * dq_row_stride
    dq_pointers = tile_pointers(dq, dq_row_stride, block_m, block_d, aligned)
    store_tile(dq_pointers, dq_acc * scale, row, length_q, head_dim, full)


@device
def _gather_keys(
    dq_acc,  # (block_m, block_d) fp32
    q_tile,  # (block_m, block_d)
    dout_tile,  # (block_m, block_d)
    row_lse,  # (block_m)
    row_delta,  # (block_m)
    k_pointers,  # (block_n, block_d)
    v_pointers,  # (block_n, block_d)
    k_row_stride,
    v_row_stride,
    row,
    begin,
    end,
    length_k,
    head_dim,
    diagonal,
    scale_log2,
    masked: tl.constexpr,
    causal: tl.constexpr,
    full: tl.constexpr,
    block_m: tl.constexpr,
    block_n: tl.constexpr,
):
    """Algorithm 2, lines 10 to 15 for dQ, over the keys [begin, end)."""
    queries = row + tl.arange(0, block_m)
    for column in tl.range(begin, end, block_n):
        # S = Q K^T  (line 10), (block_m, block_n), raw
        k_tile = load_tile(k_pointers + column * k_row_stride, column, length_k, head_dim, masked, full)
        p = probabilities(tl.dot(q_tile, tl.trans(k_tile)), row_lse[:, None], scale_log2)
        if masked:
            # Keys past length_k must go too: their score is 0, and exp2(0 - lse) may be infinite.
            keys = column + tl.arange(0, block_n)
            p = tl.where(visible(queries[:, None], keys[None, :], length_k, diagonal, causal), p, 0.0)
        # dP = dO V^T  (line 13); dS = P * (dP - D)  (line 14)
        v_tile = load_tile(v_pointers + column * v_row_stride, column, length_k, head_dim, masked, full)
        ds = p * (tl.dot(dout_tile, tl.trans(v_tile)) - row_delta[:, None])
        # dQ += dS K  (line 15)
        dq_acc = tl.dot(rounded(ds, k_pointers.dtype.element_ty), k_tile, dq_acc)
    return dq_acc
