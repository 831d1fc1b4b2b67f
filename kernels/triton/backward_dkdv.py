"""The backward kernel of dK and dV: Algorithm 2 of FlashAttention-2 (arXiv 2307.08691), lines 10 to 16.

One program owns a block of keys and sums dK and dV over the queries; the heads of a group add up in registers, so that
dK and dV need no copy a query head. For dQ another kernel, in `fa2verify.kernels.triton.backward_dq`, owns a block of
queries and sums over the keys. S and dP are computed twice, seven products in all for the paper's five; in exchange
every sum has one order, so that two runs give the same bits, and dQ needs no fp32 buffer to which key blocks add.
"""
# Device code: its arguments are Triton's values, which have no Python types.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"

import triton
import triton.language as tl
from torch import Tensor

from fa2verify.kernels.interface.call import Call
from fa2verify.kernels.triton.arguments import padded_block_d
from fa2verify.kernels.triton.choice import configuration
from fa2verify.kernels.triton.configuration import Configuration
from fa2verify.kernels.triton.device import device
from fa2verify.kernels.triton.dropout import kept, seed_of
from fa2verify.kernels.triton.mask import diagonal_of, lower_of, query_range, upper_of, visible
from fa2verify.kernels.triton.precision import rounded
from fa2verify.kernels.triton.scores import biased, slope_of, softcapped, through_softcap
from fa2verify.kernels.triton.sequence import program_work, sequence_extent
from fa2verify.kernels.triton.softmax import probabilities
from fa2verify.kernels.triton.specialisation import UNSPECIALISED
from fa2verify.kernels.triton.tile import load_from, padded_head_dim, source_of, store_tile, tile_pointers
from fa2verify.kernels.triton.walk import walk


def backward_dkdv(
    call: Call,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dout: Tensor,
    lse_log2: Tensor,
    delta: Tensor,
    dk: Tensor,
    dv: Tensor,
    config: Configuration | None = None,
) -> None:
    """Fill `dk` and `dv`, like k and v. `lse_log2` and `delta` are `preprocess`'s.

    `config` replaces `choice.configuration`'s.
    """
    config = config or configuration("backward_dkdv", padded_block_d(call.head_dim), q.device)
    tensors = {"q": q, "k": k, "v": v, "dout": dout, "dk": dk, "dv": dv, "lse_log2": lse_log2, "delta": delta}
    walk(backward_dkdv_kernel, "queries", call, tensors, config)


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
    alibi_slopes,  # fp32 (sequence, head), or None, as the next
    dropout_seed,  # int64 (1)
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
    window_left,  # None where nothing bounds that side, as the next
    window_right,
    alibi_sequence_stride,
    scale,
    scale_log2,
    cap_scale,  # None without a softcap
    dropout_threshold,
    dropout_rescale,
    negative: tl.constexpr,
    varlen: tl.constexpr,
    aligned: tl.constexpr,
    full: tl.constexpr,
    descriptors: tl.constexpr,  # whether tiles that move come through descriptors
    resting: tl.constexpr,  # whether those that stay do
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

    # K and V stay for the whole program. Rows past length_k read as zero; their rows of dK and dV are not stored.
    k_source = source_of(
        k, begin_k, k_sequence_stride, head_kv, k_head_stride, k_row_stride, resting, aligned, block_n, block_d
    )
    v_source = source_of(
        v, begin_k, v_sequence_stride, head_kv, v_head_stride, v_row_stride, resting, aligned, block_n, block_d
    )
    k_tile = load_from(
        k_source, k_row_stride, sequence, head_kv, column, length_k, head_dim,
        resting, True, full, block_n, block_d,
    )  # fmt: skip
    v_tile = load_from(
        v_source, v_row_stride, sequence, head_kv, column, length_k, head_dim,
        resting, True, full, block_n, block_d,
    )  # fmt: skip
    if negative:
        k_tile = -k_tile

    dk_acc = tl.zeros([block_n, block_d], tl.float32)
    dv_acc = tl.zeros([block_n, block_d], tl.float32)
    diagonal = diagonal_of(length_q, length_k, bottom_right)
    lower = lower_of(diagonal, window_left)
    upper = upper_of(diagonal, window_right)
    begin, full_begin, full_end, end = query_range(column, length_q, length_k, lower, upper, block_m, block_n)
    seed = seed_of(dropout_seed)
    for member in tl.range(0, group):
        head = (first_head + member).to(tl.int64)
        q_source = source_of(
            q, begin_q, q_sequence_stride, head, q_head_stride, q_row_stride, descriptors, aligned, block_m, block_d
        )
        dout_source = source_of(
            dout, begin_q, dout_sequence_stride, head, dout_head_stride, dout_row_stride,
            descriptors, aligned, block_m, block_d,
        )  # fmt: skip
        row_offset = begin_q * lse_sequence_stride + head * lse_head_stride
        slope = slope_of(alibi_slopes, alibi_sequence_stride, sequence, head)
        if window_right is not None:
            dk_acc, dv_acc = _gather_queries(
                dk_acc, dv_acc, k_tile, v_tile, q_source, dout_source, lse_log2 + row_offset, delta + row_offset,
                q_row_stride, dout_row_stride, column, begin, tl.minimum(full_begin, end),
                length_q, length_k, head_dim, diagonal, lower, upper, scale_log2, cap_scale,
                slope, seed, dropout_threshold, dropout_rescale, sequence, head,
                dk.dtype.element_ty, descriptors, True, full, block_m, block_n, block_d,
            )  # fmt: skip
        dk_acc, dv_acc = _gather_queries(
            dk_acc, dv_acc, k_tile, v_tile, q_source, dout_source, lse_log2 + row_offset, delta + row_offset,
            q_row_stride, dout_row_stride, column, full_begin, full_end,
            length_q, length_k, head_dim, diagonal, lower, upper, scale_log2, cap_scale,
            slope, seed, dropout_threshold, dropout_rescale, sequence, head,
            dk.dtype.element_ty, descriptors, False, full, block_m, block_n, block_d,
        )  # fmt: skip
        if window_left is not None:
            dk_acc, dv_acc = _gather_queries(
                dk_acc, dv_acc, k_tile, v_tile, q_source, dout_source, lse_log2 + row_offset, delta + row_offset,
                q_row_stride, dout_row_stride, column, tl.maximum(full_begin, full_end), end,
                length_q, length_k, head_dim, diagonal, lower, upper, scale_log2, cap_scale,
                slope, seed, dropout_threshold, dropout_rescale, sequence, head,
                dk.dtype.element_ty, descriptors, True, full, block_m, block_n, block_d,
            )  # fmt: skip

    dk += begin_k * dk_sequence_stride + head_kv * dk_head_stride + column * dk_row_stride
    dv += begin_k * dv_sequence_stride + head_kv * dv_head_stride + column * dv_row_stride
    dk_pointers = tile_pointers(dk, dk_row_stride, block_n, block_d, aligned)
    dv_pointers = tile_pointers(dv, dv_row_stride, block_n, block_d, aligned)
    # S = scale * Q K^T, so dK = scale * dS^T Q: one factor at the end instead of one a score.
    store_tile(dk_pointers, dk_acc * scale, column, length_k, head_dim, full)
    if dropout_seed is not None:
        dv_acc = dv_acc * dropout_rescale
    store_tile(dv_pointers, dv_acc, column, length_k, head_dim, full)


@device
def _gather_queries(
    dk_acc,  # (block_n, block_d) fp32
    dv_acc,  # (block_n, block_d) fp32
    k_tile,  # (block_n, block_d)
    v_tile,  # (block_n, block_d)
    q_source,  # addresses (block_m, block_d) or a descriptor
    dout_source,
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
    lower,
    upper,
    scale_log2,
    cap_scale,
    slope,
    seed,
    dropout_threshold,
    dropout_rescale,
    sequence,
    head,
    dtype: tl.constexpr,
    descriptors: tl.constexpr,
    masked: tl.constexpr,
    full: tl.constexpr,
    block_m: tl.constexpr,
    block_n: tl.constexpr,
    block_d: tl.constexpr,
):
    """Algorithm 2, lines 10 to 16, over the queries [begin, end).

    Scores are computed transposed, keys down and queries across: P^T and dS^T are then left operands of the products
    that give dV and dK, which the tensor cores take from registers.
    """
    keys = (column + tl.arange(0, block_n))[:, None]
    for row in tl.range(begin, end, block_m):
        rows = row + tl.arange(0, block_m)
        inside = rows < length_q
        # S^T = K Q^T  (line 10), (block_n, block_m), raw
        q_tile = load_from(
            q_source, q_row_stride, sequence, head, row, length_q, head_dim,
            descriptors, True, full, block_m, block_d,
        )  # fmt: skip
        capped = softcapped(tl.dot(k_tile, tl.trans(q_tile)), cap_scale)
        scores, factor = biased(capped, rows[None, :], keys, diagonal, scale_log2, slope)
        # Rows past length_q need no mask: exp(S - inf) = 0.
        row_lse = tl.load(lse_log2 + rows, mask=inside, other=float("inf"))
        p = probabilities(scores, row_lse[None, :], factor)
        if masked:
            p = tl.where(visible(rows[None, :], keys, length_k, lower, upper), p, 0.0)
        # dV += P^T dO  (line 12)
        dropped = p
        if seed is not None:
            keep = tl.trans(kept(seed, dropout_threshold, sequence, head, row, column, block_m, block_n))
            dropped = tl.where(keep, p, 0.0)
        dout_tile = load_from(
            dout_source, dout_row_stride, sequence, head, row, length_q, head_dim,
            descriptors, True, full, block_m, block_d,
        )  # fmt: skip
        dv_acc = tl.dot(rounded(dropped, dtype), dout_tile, dv_acc)
        # dP^T = V dO^T  (line 13); dS = P * (dP - D)  (line 14)
        dp = tl.dot(v_tile, tl.trans(dout_tile))
        if seed is not None:
            dp = tl.where(keep, dp * dropout_rescale, 0.0)
        row_delta = tl.load(delta + rows, mask=inside, other=0.0)
        ds = through_softcap(p * (dp - row_delta[None, :]), capped, cap_scale)
        # dK += dS^T Q  (line 16)
        dk_acc = tl.dot(rounded(ds, dtype), q_tile, dk_acc)
    return dk_acc, dv_acc
