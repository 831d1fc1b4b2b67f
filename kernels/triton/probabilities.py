"""The attention weights themselves, for tests of dropout: what no flash kernel keeps, recomputed from lse.

flash-attn's functions return them as S_dmask. One program computes one block of scores as the backward does and stores
exp(S - L), negated where dropout drops it.
"""
# Device code: its arguments are Triton's values, which have no Python types.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from fa2verify.kernels.interface.call import Call
from fa2verify.kernels.interface.signature import MOST, Layout, placed
from fa2verify.kernels.triton.arguments import arguments, padded_block_d
from fa2verify.kernels.triton.choice import configuration
from fa2verify.kernels.triton.configuration import Configuration
from fa2verify.kernels.triton.dropout import kept, seed_of
from fa2verify.kernels.triton.launch import Launch, prepare
from fa2verify.kernels.triton.mask import diagonal_of, lower_of, upper_of, visible
from fa2verify.kernels.triton.precision import storable
from fa2verify.kernels.triton.scores import biased, slope_of, softcapped
from fa2verify.kernels.triton.sequence import program_work, sequence_extent
from fa2verify.kernels.triton.softmax import probabilities as softmax_probabilities
from fa2verify.kernels.triton.specialisation import UNSPECIALISED
from fa2verify.kernels.triton.tile import load_tile, padded_head_dim, tile_pointers


def probabilities(call: Call, q: Tensor, k: Tensor, lse: Tensor, weights: Tensor) -> None:
    """Fill the visible part of `weights`, contiguous (batch, heads_q, >= seqlen_q, >= seqlen_k) of q's dtype."""
    config = configuration("probabilities", padded_block_d(call.head_dim), q.device)
    tensors = {"q": q, "k": k, "lse": lse, "weights": weights, **call.tensors}
    _prepare(call.plain, placed(tensors)[0], weights.shape, config)(tensors, q.device, q.dtype)


@lru_cache(maxsize=MOST)
def _prepare(call: Call, layouts: tuple[Layout, ...], weights: torch.Size, config: Configuration) -> Launch:
    columns = triton.cdiv(call.seqlen_k, config.block_n)
    given = arguments(call, layouts)
    given |= {"column_blocks": columns, "weights_rows": weights[2], "weights_columns": weights[3]}
    blocks = triton.cdiv(call.seqlen_q, config.block_m) * columns
    return prepare(probabilities_kernel, (blocks, call.heads_q, call.batch), config, given)


@triton.jit(do_not_specialize=UNSPECIALISED)
def probabilities_kernel(
    q,  # (sequence, row, head, head_dim) through its strides, as k
    k,
    lse,  # fp32 (sequence, head, row), natural log
    weights,  # (sequence, head, weights_rows, weights_columns)
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
    lse_sequence_stride,
    lse_head_stride,
    weights_rows,
    weights_columns,
    blocks,
    column_blocks,
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
    negative: tl.constexpr,
    varlen: tl.constexpr,
    aligned: tl.constexpr,
    full: tl.constexpr,
    block_m: tl.constexpr,
    block_n: tl.constexpr,
    block_d: tl.constexpr,
):
    """One block of queries and keys of one head."""
    block, head, sequence = program_work(blocks, heads_q)
    begin_q, length_q = sequence_extent(cu_seqlens_q, seqlen_q, sequence, varlen)
    begin_k, length_k = sequence_extent(cu_seqlens_k, seqlen_k, sequence, varlen)
    row = block // column_blocks * block_m
    column = block % column_blocks * block_n
    if row >= length_q or column >= length_k:
        return
    head_dim = padded_head_dim(head_dim, aligned)
    head_kv = (head // (heads_q // heads_kv)).to(tl.int64)
    head = head.to(tl.int64)
    q_row_stride = q_row_stride.to(tl.int64)
    k_row_stride = k_row_stride.to(tl.int64)
    q += begin_q * q_sequence_stride + head * q_head_stride + row * q_row_stride
    k += begin_k * k_sequence_stride + head_kv * k_head_stride + column * k_row_stride
    q_tile = load_tile(tile_pointers(q, q_row_stride, block_m, block_d, aligned), row, length_q, head_dim, True, full)
    k_tile = load_tile(
        tile_pointers(k, k_row_stride, block_n, block_d, aligned), column, length_k, head_dim, True, full
    )
    if negative:
        q_tile = -q_tile

    diagonal = diagonal_of(length_q, length_k, bottom_right)
    rows = row + tl.arange(0, block_m)
    queries = rows[:, None]
    keys = (column + tl.arange(0, block_n))[None, :]
    log2e: tl.constexpr = 1.4426950408889634
    lse_offset = begin_q * lse_sequence_stride + head * lse_head_stride
    row_lse = tl.load(lse + lse_offset + rows, mask=rows < length_q, other=0.0) * log2e
    scores = softcapped(tl.dot(q_tile, tl.trans(k_tile)), cap_scale)
    slope = slope_of(alibi_slopes, alibi_sequence_stride, sequence, head)
    scores, factor = biased(scores, queries, keys, diagonal, scale_log2, slope)
    p = softmax_probabilities(scores, row_lse[:, None], factor)
    seen = visible(queries, keys, length_k, lower_of(diagonal, window_left), upper_of(diagonal, window_right))
    seed = seed_of(dropout_seed)
    if seed is not None:
        p = tl.where(kept(seed, dropout_threshold, sequence, head, row, column, block_m, block_n), p, -p)
    plane = (sequence.to(tl.int64) * heads_q + head) * weights_rows * weights_columns
    pointers = weights + plane + queries.to(tl.int64) * weights_columns + keys
    tl.store(pointers, storable(p, weights.dtype.element_ty), mask=seen & (queries < length_q))
