"""The forward kernel: Algorithm 1 of FlashAttention-2 (arXiv 2307.08691).

One program computes one block of queries of one head: it walks over the key blocks that its queries can see, keeps the
running maximum and sum of each row, and divides by the sum once at the end (section 3.1). Scores and probabilities stay
in registers; the memory traffic is Q, K, V, O and one fp32 number a row. What a call does not ask for arrives as None,
and the compiler drops what it would have done.
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
from fa2verify.kernels.triton.scores import biased, slope_of, softcapped
from fa2verify.kernels.triton.sequence import program_work, sequence_extent
from fa2verify.kernels.triton.softmax import logsumexp, online_softmax
from fa2verify.kernels.triton.specialisation import UNSPECIALISED
from fa2verify.kernels.triton.tile import load_from, padded_head_dim, source_of, store_tile, tile_pointers
from fa2verify.kernels.triton.walk import walk


def forward(
    call: Call, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, config: Configuration | None = None
) -> None:
    """Fill `out` (like q) and `lse`, contiguous fp32 (batch, heads_q, seqlen_q), varlen (heads_q, total_q).

    Tensors may have any strides but in the last dimension, which is contiguous. Rows past the last sequence of a packed
    batch are left alone. `config` replaces `choice.configuration`'s.
    """
    config = config or configuration("forward", padded_block_d(call.head_dim), q.device)
    walk(forward_kernel, "keys", call, {"q": q, "k": k, "v": v, "out": out, "lse": lse}, config)


@triton.jit(do_not_specialize=UNSPECIALISED)
def forward_kernel(
    q,  # (sequence, row, head, head_dim) through its strides, as k, v and out
    k,
    v,
    out,
    lse,  # fp32 (sequence, head, row)
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
    out_sequence_stride,
    out_row_stride,
    out_head_stride,
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
    out_row_stride = out_row_stride.to(tl.int64)

    q_source = source_of(
        q, begin_q, q_sequence_stride, head, q_head_stride, q_row_stride, resting, aligned, block_m, block_d
    )
    q_tile = load_from(
        q_source, q_row_stride, sequence, head, row, length_q, head_dim,
        resting, True, full, block_m, block_d,
    )  # fmt: skip
    if negative:
        q_tile = -q_tile
    k_source = source_of(
        k, begin_k, k_sequence_stride, head_kv, k_head_stride, k_row_stride, descriptors, aligned, block_n, block_d
    )
    v_source = source_of(
        v, begin_k, v_sequence_stride, head_kv, v_head_stride, v_row_stride, descriptors, aligned, block_n, block_d
    )

    acc = tl.zeros([block_m, block_d], tl.float32)
    row_max = tl.full([block_m], float("-inf"), tl.float32)
    row_sum = tl.zeros([block_m], tl.float32)
    seed = seed_of(dropout_seed)
    slope = slope_of(alibi_slopes, alibi_sequence_stride, sequence, head)
    diagonal = diagonal_of(length_q, length_k, bottom_right)
    lower = lower_of(diagonal, window_left)
    upper = upper_of(diagonal, window_right)
    begin, full_begin, full_end, end = key_range(row, length_q, length_k, lower, upper, block_m, block_n)
    if window_left is not None:
        acc, row_max, row_sum = _attend(
            acc, row_max, row_sum, q_tile, k_source, v_source, k_row_stride, v_row_stride,
            row, begin, tl.minimum(full_begin, end), length_k, head_dim, diagonal, lower, upper, scale_log2, cap_scale,
            slope, seed, dropout_threshold, sequence, head, head_kv,
            out.dtype.element_ty, descriptors, True, full, block_m, block_n, block_d,
        )  # fmt: skip
    acc, row_max, row_sum = _attend(
        acc, row_max, row_sum, q_tile, k_source, v_source, k_row_stride, v_row_stride,
        row, full_begin, full_end, length_k, head_dim, diagonal, lower, upper, scale_log2, cap_scale,
        slope, seed, dropout_threshold, sequence, head, head_kv,
            out.dtype.element_ty, descriptors, False, full, block_m, block_n, block_d,
    )  # fmt: skip
    masked_begin = tl.maximum(full_begin, full_end)
    # A loop that runs no time still fills its pipeline: at 512 keys that is a tenth of the kernel.
    if masked_begin < end:
        acc, row_max, row_sum = _attend(
            acc, row_max, row_sum, q_tile, k_source, v_source, k_row_stride, v_row_stride,
            row, masked_begin, end, length_k, head_dim, diagonal, lower, upper, scale_log2, cap_scale,
            slope, seed, dropout_threshold, sequence, head, head_kv,
            out.dtype.element_ty, descriptors, True, full, block_m, block_n, block_d,
        )  # fmt: skip

    # O = O / l (line 12); a row that saw no key has l = 0 and O = 0, and stays 0.
    acc = acc * (1.0 / tl.where(row_sum == 0.0, 1.0, row_sum))[:, None]
    if dropout_seed is not None:
        acc = acc * dropout_rescale
    out += begin_q * out_sequence_stride + head * out_head_stride + row * out_row_stride
    out_pointers = tile_pointers(out, out_row_stride, block_m, block_d, aligned)
    store_tile(out_pointers, acc, row, length_q, head_dim, full)
    rows = row + tl.arange(0, block_m)
    lse += begin_q * lse_sequence_stride + head * lse_head_stride
    tl.store(lse + rows, logsumexp(row_max, row_sum), mask=rows < length_q)


@device
def _attend(
    acc,  # (block_m, block_d) fp32, the paper's O before division
    row_max,  # (block_m)
    row_sum,  # (block_m)
    q_tile,  # (block_m, block_d)
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
    """Algorithm 1, lines 6 to 11, over the keys [begin, end)."""
    queries = (row + tl.arange(0, block_m))[:, None]
    for column in tl.range(begin, end, block_n):
        keys = (column + tl.arange(0, block_n))[None, :]
        # S = Q K^T  (line 8), (block_m, block_n), raw
        k_tile = load_from(
            k_source, k_row_stride, sequence, head_kv, column, length_k, head_dim,
            descriptors, masked, full, block_n, block_d,
        )  # fmt: skip
        scores = softcapped(tl.dot(q_tile, tl.trans(k_tile)), cap_scale)
        scores, factor = biased(scores, queries, keys, diagonal, scale_log2, slope)
        if masked:
            scores = tl.where(visible(queries, keys, length_k, lower, upper), scores, float("-inf"))
        p, rescale, row_max, row_sum = online_softmax(scores, row_max, row_sum, factor)
        if seed is not None:
            keep = kept(seed, dropout_threshold, sequence, head, row, column, block_m, block_n)
            p = tl.where(keep, p, 0.0)
        # O = diag(e^(m_old - m_new)) O + P V  (line 10)
        v_tile = load_from(
            v_source, v_row_stride, sequence, head_kv, column, length_k, head_dim,
            descriptors, masked, full, block_n, block_d,
        )  # fmt: skip
        acc = tl.dot(rounded(p, dtype), v_tile, acc * rescale[:, None])
    return acc, row_max, row_sum
