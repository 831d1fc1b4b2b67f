"""The backward kernel of dQ: Algorithm 2 of FlashAttention-2 (arXiv 2307.08691), lines 10 to 15, turned around.

One program owns a block of queries and walks over the keys, as the forward does; why the backward is two kernels is
said in `fa2verify.kernels.triton.backward_dkdv`.
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
from fa2verify.kernels.triton.mask import diagonal_of, key_range, lower_of, upper_of, visible
from fa2verify.kernels.triton.precision import rounded
from fa2verify.kernels.triton.scores import biased, slope_of, softcapped, through_softcap
from fa2verify.kernels.triton.sequence import program_work, sequence_extent
from fa2verify.kernels.triton.softmax import probabilities
from fa2verify.kernels.triton.specialisation import UNSPECIALISED
from fa2verify.kernels.triton.tile import load_from, padded_head_dim, source_of, store_tile, tile_pointers
from fa2verify.kernels.triton.walk import walk


def backward_dq(
    call: Call,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dout: Tensor,
    lse_log2: Tensor,
    delta: Tensor,
    dq: Tensor,
    config: Configuration | None = None,
) -> None:
    """Fill `dq`, like q. `lse_log2` and `delta` are `preprocess`'s; `config` replaces `choice.configuration`'s."""
    config = config or configuration("backward_dq", padded_block_d(call.head_dim), q.device)
    tensors = {"q": q, "k": k, "v": v, "dout": dout, "dq": dq, "lse_log2": lse_log2, "delta": delta}
    walk(backward_dq_kernel, "keys", call, tensors, config)


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

    q_source = source_of(
        q, begin_q, q_sequence_stride, head, q_head_stride, q_row_stride, resting, aligned, block_m, block_d
    )
    dout_source = source_of(
        dout, begin_q, dout_sequence_stride, head, dout_head_stride, dout_row_stride,
        resting, aligned, block_m, block_d,
    )  # fmt: skip
    q_tile = load_from(
        q_source, q_row_stride, sequence, head, row, length_q, head_dim,
        resting, True, full, block_m, block_d,
    )  # fmt: skip
    dout_tile = load_from(
        dout_source, dout_row_stride, sequence, head, row, length_q, head_dim,
        resting, True, full, block_m, block_d,
    )  # fmt: skip
    if negative:
        q_tile = -q_tile
    rows = row + tl.arange(0, block_m)
    row_offset = begin_q * lse_sequence_stride + head * lse_head_stride
    row_lse = tl.load(lse_log2 + row_offset + rows, mask=rows < length_q, other=0.0)
    row_delta = tl.load(delta + row_offset + rows, mask=rows < length_q, other=0.0)
    k_source = source_of(
        k, begin_k, k_sequence_stride, head_kv, k_head_stride, k_row_stride, descriptors, aligned, block_n, block_d
    )
    v_source = source_of(
        v, begin_k, v_sequence_stride, head_kv, v_head_stride, v_row_stride, descriptors, aligned, block_n, block_d
    )

    dq_acc = tl.zeros([block_m, block_d], tl.float32)
    diagonal = diagonal_of(length_q, length_k, bottom_right)
    lower = lower_of(diagonal, window_left)
    upper = upper_of(diagonal, window_right)
    begin, full_begin, full_end, end = key_range(row, length_q, length_k, lower, upper, block_m, block_n)
    seed = seed_of(dropout_seed)
    slope = slope_of(alibi_slopes, alibi_sequence_stride, sequence, head)
    if window_left is not None:
        dq_acc = _gather_keys(
            dq_acc, q_tile, dout_tile, row_lse, row_delta, k_source, v_source, k_row_stride, v_row_stride,
            row, begin, tl.minimum(full_begin, end), length_k, head_dim, diagonal, lower, upper, scale_log2, cap_scale,
            slope, seed, dropout_threshold, dropout_rescale, sequence, head, head_kv,
            dq.dtype.element_ty, descriptors, True, full, block_m, block_n, block_d,
        )  # fmt: skip
    dq_acc = _gather_keys(
        dq_acc, q_tile, dout_tile, row_lse, row_delta, k_source, v_source, k_row_stride, v_row_stride,
        row, full_begin, full_end, length_k, head_dim, diagonal, lower, upper, scale_log2, cap_scale,
        slope, seed, dropout_threshold, dropout_rescale, sequence, head, head_kv,
        dq.dtype.element_ty, descriptors, False, full, block_m, block_n, block_d,
    )  # fmt: skip
    masked_begin = tl.maximum(full_begin, full_end)
    # As in the forward: a loop that runs no time still fills its pipeline.
    if masked_begin < end:
        dq_acc = _gather_keys(
            dq_acc, q_tile, dout_tile, row_lse, row_delta, k_source, v_source, k_row_stride, v_row_stride,
            row, masked_begin, end, length_k, head_dim, diagonal, lower, upper, scale_log2, cap_scale,
            slope, seed, dropout_threshold, dropout_rescale, sequence, head, head_kv,
            dq.dtype.element_ty, descriptors, True, full, block_m, block_n, block_d,
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
    k_source,  # addresses (block_n, block_d) or a descriptor
    v_source,
    k_row_stride,
    v_row_stride,
    row,
    begin,
    end,
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
    head_kv,
    dtype: tl.constexpr,
    descriptors: tl.constexpr,
    masked: tl.constexpr,
    full: tl.constexpr,
    block_m: tl.constexpr,
    block_n: tl.constexpr,
    block_d: tl.constexpr,
):
    """Algorithm 2, lines 10 to 15 for dQ, over the keys [begin, end)."""
    queries = (row + tl.arange(0, block_m))[:, None]
    for column in tl.range(begin, end, block_n):
        keys = (column + tl.arange(0, block_n))[None, :]
        # S = Q K^T  (line 10), (block_m, block_n), raw
        k_tile = load_from(
            k_source, k_row_stride, sequence, head_kv, column, length_k, head_dim,
            descriptors, masked, full, block_n, block_d,
        )  # fmt: skip
        capped = softcapped(tl.dot(q_tile, tl.trans(k_tile)), cap_scale)
        scores, factor = biased(capped, queries, keys, diagonal, scale_log2, slope)
        p = probabilities(scores, row_lse[:, None], factor)
        if masked:
            # Keys past length_k must go too: their score is 0, and exp2(0 - lse) may be infinite.
            p = tl.where(visible(queries, keys, length_k, lower, upper), p, 0.0)
        # dP = dO V^T  (line 13); dS = P * (dP - D)  (line 14)
        v_tile = load_from(
            v_source, v_row_stride, sequence, head_kv, column, length_k, head_dim,
            descriptors, masked, full, block_n, block_d,
        )  # fmt: skip
        dp = tl.dot(dout_tile, tl.trans(v_tile))
        if seed is not None:
            keep = kept(seed, dropout_threshold, sequence, head, row, column, block_m, block_n)
            dp = tl.where(keep, dp * dropout_rescale, 0.0)
        ds = through_softcap(p * (dp - row_delta[:, None]), capped, cap_scale)
        # dQ += dS K  (line 15)
        dq_acc = tl.dot(rounded(ds, dtype), k_tile, dq_acc)
    return dq_acc
