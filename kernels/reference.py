"""What the right answer is: attention in PyTorch, dense, in fp64, every step written out.

For sequence b, query head h (key head h // (heads_q / heads_kv)), query i and key j:

    s   = scale * (q_i . k_j)
    z   = softcap * tanh(s / softcap)            with a softcap, else s
    S   = z - slope_h * |i + diagonal - j|       with ALiBi, else z
    lse = log sum over visible j of exp(S)       natural log, -inf where nothing is visible
    P   = exp(S - lse), 0 where not visible      (paper: P = softmax(S))
    W   = P * keep / (1 - dropout)               lse is without dropout
    O   = W V                                    0 where nothing is visible

and backwards, as in FlashAttention-2 (arXiv 2307.08691, section 2.3.2), with D = rowsum(dO * O):

    dV  = W^T dO,    dP = (dO V^T) * keep / (1 - dropout),    dS = P * (dP - D)
    dQ  = scale * (dS * dz/ds) K,    dK = scale * (dS * dz/ds)^T Q

Rows of packed tensors past the last sequence see nothing and are seen by nobody: O = 0, lse = -inf, no gradient.

The steps are kept, not only the results: error bounds and decoys are functions of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from fa2verify.kernels.dropout import kept
from fa2verify.kernels.kernel import Outputs
from fa2verify.kernels.mask import distance, visible
from fa2verify.kernels.problem import Problem
from fa2verify.kernels.sequences import Block, blocks, join, join_rows
from fa2verify.kernels.tensors import Tensors

Precision = Literal["fp64", "fp32"]
_DTYPE = {"fp64": torch.float64, "fp32": torch.float32}


@dataclass(frozen=True)
class Steps:
    """Every intermediate of one block, (batch, heads_q, seqlen_q, seqlen_k) unless said otherwise.

    problem   what is computed
    block     from which tensors, and which sequences of the batch they are
    q, dout   (batch, heads_q, seqlen_q, head_dim) in the reference's precision
    k, v      (batch, heads_q, seqlen_k, head_dim): key heads repeated for the query heads that read them
    """

    problem: Problem
    block: Block
    precision: Precision = "fp64"

    @cached_property
    def q(self) -> Tensor:
        """Queries."""
        return self.block.q.to(_DTYPE[self.precision])

    @cached_property
    def dout(self) -> Tensor:
        """Gradient of O."""
        return self.block.dout.to(_DTYPE[self.precision])

    @cached_property
    def k(self) -> Tensor:
        """Keys."""
        return self.block.k.to(_DTYPE[self.precision]).repeat_interleave(self.problem.group, dim=1)

    @cached_property
    def v(self) -> Tensor:
        """Values."""
        return self.block.v.to(_DTYPE[self.precision]).repeat_interleave(self.problem.group, dim=1)

    @cached_property
    def visible(self) -> Tensor:
        """Bool (seqlen_q, seqlen_k)."""
        return visible(self.problem, self.q.shape[2], self.k.shape[2], self.q.device)

    @cached_property
    def s(self) -> Tensor:
        """Scale * Q K^T."""
        return self.problem.softmax_scale * (self.q @ self.k.mT)

    @cached_property
    def tanh(self) -> Tensor:
        """What the softcap is multiplied with; only with a softcap."""
        return torch.tanh(self.s / self.problem.softcap)

    @cached_property
    def z(self) -> Tensor:
        """Scores after the softcap."""
        return self.problem.softcap * self.tanh if self.problem.softcap else self.s

    @cached_property
    def bias(self) -> Tensor | None:
        """ALiBi's bias, or None."""
        if self.block.slopes is None:
            return None
        away = distance(self.problem, self.q.shape[2], self.k.shape[2], self.q.device).abs()
        return -self.block.slopes.to(self.q.dtype)[:, :, None, None] * away

    @cached_property
    def scores(self) -> Tensor:
        """S, -inf where not visible."""
        full = self.z if self.bias is None else self.z + self.bias
        return full.masked_fill(~self.visible, float("-inf"))

    @cached_property
    def lse(self) -> Tensor:
        """(batch, heads_q, seqlen_q); -inf where nothing is visible."""
        return torch.logsumexp(self.scores, dim=-1)

    @cached_property
    def p(self) -> Tensor:
        """P, 0 where not visible and in rows that see nothing."""
        shift = self.lse.masked_fill(self.lse == float("-inf"), 0.0)
        return torch.exp(self.scores - shift[..., None])

    @cached_property
    def keep(self) -> Tensor | None:
        """Dropout's factor: 0 or 1 / (1 - dropout); None without dropout."""
        if not self.problem.dropout:
            return None
        first, batch = self.block.first, self.q.shape[0]
        masks = [
            kept(self.problem, first + index, self.q.shape[2], self.k.shape[2], self.q.device) for index in range(batch)
        ]
        return torch.stack(masks).to(self.q.dtype) / (1 - self.problem.dropout)

    def drop(self, weights: Tensor) -> Tensor:
        """`weights` with dropout's factor."""
        return weights if self.keep is None else weights * self.keep

    @cached_property
    def w(self) -> Tensor:
        """W, the weights after dropout."""
        return self.drop(self.p)

    @cached_property
    def out(self) -> Tensor:
        """O, (batch, heads_q, seqlen_q, head_dim)."""
        return self.w @ self.v

    @cached_property
    def dp(self) -> Tensor:
        """Gradient of P."""
        return self.drop(self.dout @ self.v.mT)

    @cached_property
    def d(self) -> Tensor:
        """D, (batch, heads_q, seqlen_q, 1)."""
        return (self.dout * self.out).sum(-1, keepdim=True)

    @cached_property
    def ds(self) -> Tensor:
        """Gradient of S."""
        return self.p * (self.dp - self.d)

    @cached_property
    def dz(self) -> Tensor:
        """Gradient of s, through the softcap."""
        return self.ds * (1 - self.tanh**2) if self.problem.softcap else self.ds

    @cached_property
    def dq(self) -> Tensor:
        """(batch, heads_q, seqlen_q, head_dim)."""
        return self.problem.softmax_scale * (self.dz @ self.k)

    @cached_property
    def dk_heads(self) -> Tensor:
        """Each query head's share of dK, (batch, heads_q, seqlen_k, head_dim)."""
        return self.problem.softmax_scale * (self.dz.mT @ self.q)

    @cached_property
    def dv_heads(self) -> Tensor:
        """Each query head's share of dV, (batch, heads_q, seqlen_k, head_dim)."""
        return self.w.mT @ self.dout

    def over_group(self, heads: Tensor) -> Tensor:
        """Sum over the query heads of each key head: (batch, heads_q, ...) to (batch, heads_kv, ...)."""
        batch, _, seqlen, head_dim = heads.shape
        return heads.reshape(batch, self.problem.heads_kv, self.problem.group, seqlen, head_dim).sum(2)

    @cached_property
    def dk(self) -> Tensor:
        """(batch, heads_kv, seqlen_k, head_dim)."""
        return self.over_group(self.dk_heads)

    @cached_property
    def dv(self) -> Tensor:
        """(batch, heads_kv, seqlen_k, head_dim)."""
        return self.over_group(self.dv_heads)


def steps(problem: Problem, tensors: Tensors, precision: Precision = "fp64") -> Iterator[Steps]:
    """The reference's steps, block after block."""
    return (Steps(problem, block, precision) for block in blocks(problem, tensors))


def outputs(problem: Problem, parts: list[Steps]) -> Outputs:
    """The reference's outputs, in its own precision, never rounded back to the problem's dtype."""
    out = join(problem, [part.out for part in parts])
    lse = join_rows(problem, [part.lse for part in parts], past=float("-inf"))
    if not problem.backward:
        return Outputs(out, lse)
    return Outputs(
        out,
        lse,
        dq=join(problem, [part.dq for part in parts]),
        dk=join(problem, [part.dk for part in parts]),
        dv=join(problem, [part.dv for part in parts]),
    )


def reference(problem: Problem, tensors: Tensors, precision: Precision = "fp64") -> Outputs:
    """The right answer for `problem`, shaped as the contract says, in fp64 or fp32 (TF32 must be off)."""
    return outputs(problem, list(steps(problem, tensors, precision)))
