"""A problem's tensors, taken apart into blocks of sequences and put together again.

Reference, baseline and bounds are written for one block: (batch, heads, seqlen, head_dim) with one length for all. A
dense problem is one block; a varlen problem is a block for each of its sequences.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fa2verify.kernels.problem import Problem
from fa2verify.kernels.tensors import Tensors


@dataclass(frozen=True, slots=True)
class Block:
    """Sequences of one length each for queries and keys.

    first   index of the first sequence in the problem's batch
    q       (batch, heads_q, seqlen_q, head_dim)
    k, v    (batch, heads_kv, seqlen_k, head_dim)
    dout    (batch, heads_q, seqlen_q, head_dim)
    slopes  ALiBi slopes (batch or 1, heads_q), or None
    """

    first: int
    q: Tensor
    k: Tensor
    v: Tensor
    dout: Tensor
    slopes: Tensor | None


def blocks(problem: Problem, tensors: Tensors) -> Iterator[Block]:
    """The problem's blocks in the order of its batch; views, no copies."""
    slopes = tensors.alibi_slopes
    if slopes is not None and slopes.dim() == 1:
        slopes = slopes[None]
    if not problem.is_varlen:
        q, k, v, dout = (tensor.transpose(1, 2) for tensor in (tensors.q, tensors.k, tensors.v, tensors.dout))
        yield Block(0, q, k, v, dout, slopes)
        return
    start_q = start_k = 0
    for index, (length_q, length_k) in enumerate(zip(problem.seqlens_q, problem.seqlens_k, strict=True)):
        rows_q, rows_k = slice(start_q, start_q + length_q), slice(start_k, start_k + length_k)
        packed = (tensors.q[rows_q], tensors.k[rows_k], tensors.v[rows_k], tensors.dout[rows_q])
        q, k, v, dout = (part.transpose(0, 1)[None] for part in packed)
        of_sequence = slopes[index : index + 1] if problem.alibi == "per_batch_head" and slopes is not None else slopes
        yield Block(index, q, k, v, dout, of_sequence)
        start_q, start_k = start_q + length_q, start_k + length_k


def join(problem: Problem, parts: Sequence[Tensor]) -> Tensor:
    """Blocks of (batch, heads, seqlen, head_dim) as the contract has them.

    Dense: (batch, seqlen, heads, head_dim), varlen: (total, heads, head_dim), rows past the last sequence 0.
    """
    if not problem.is_varlen:
        return parts[0].transpose(1, 2)
    heads, head_dim = parts[0].shape[1], parts[0].shape[3]
    past = parts[0].new_zeros(problem.tail, heads, head_dim)
    return torch.cat([*(part[0].transpose(0, 1) for part in parts), past])


def join_rows(problem: Problem, parts: Sequence[Tensor], past: float = 0.0) -> Tensor:
    """Blocks of (batch, heads, seqlen) as the contract's lse: dense (batch, heads, seqlen), varlen (heads, total).

    past  what rows past the last sequence are
    """
    if not problem.is_varlen:
        return parts[0]
    return torch.cat([*(part[0] for part in parts), parts[0].new_full((parts[0].shape[1], problem.tail), past)], dim=-1)
