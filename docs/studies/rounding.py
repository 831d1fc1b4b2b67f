"""FlashAttention-2 in PyTorch, rounding to the dtype where one chooses: what the studies compare.

A kernel's errors come from where it rounds, not from the processor, so a CPU can show them. Products are computed in
fp32 throughout, as matrix units do, and rounded afterwards or not.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fa2verify.kernels.kernel import Outputs
from fa2verify.kernels.problem import Dense, Problem
from fa2verify.kernels.tensors import TORCH_DTYPE, Tensors

Rounds = Literal["probabilities", "state", "everything"]


@dataclass(frozen=True)
class Flash:
    """Algorithms 1 and 2 of FlashAttention-2 (arXiv 2307.08691) over blocks of keys.

    rounds  what is rounded to the dtype. "probabilities": P and dS alone, all else in fp32, as flash kernels do.
            "state": besides, the running maximum, the running sum and O after each block. "everything": the result of
            every operation of the forward, as PyTorch operations on tensors of that dtype do; gradients as before.
    width   keys in a block
    shift   where a block's maximum occurs more than once in a row, subtract 2 max if it is positive and 0 if it is
            negative, so that no probability is exactly 1 (the mitigation of arXiv 2510.04212, with the factor 2)
    """

    rounds: Rounds = "probabilities"
    width: int = 64
    shift: bool = False

    def __call__(self, problem: Problem, tensors: Tensors) -> Outputs:
        """Outputs in the problem's dtype, lse in fp32. Raises ValueError for other than plain dense attention."""
        _check(problem)
        dtype = TORCH_DTYPE[problem.dtype]
        q, k, v, dout = (x.transpose(1, 2).float() for x in (tensors.q, tensors.k, tensors.v, tensors.dout))
        out, lse = self.forward(q, k, v, problem.softmax_scale, dtype)
        found = [out]
        if problem.backward:
            found += gradients(q, k, v, dout, out, lse, problem.softmax_scale, dtype)
        first, *rest = (x.transpose(1, 2).to(dtype) for x in found)
        return Outputs(first, lse, *rest)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, scale: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Algorithm 1: O, already rounded to the dtype, and lse, (..., seqlen_q), both stored in fp32."""

        def rounded(x: Tensor) -> Tensor:
            return x.to(dtype).float()

        def every(x: Tensor) -> Tensor:
            return rounded(x) if self.rounds == "everything" else x

        def kept(x: Tensor) -> Tensor:
            return x if self.rounds == "probabilities" else rounded(x)

        top = torch.full(q.shape[:-1], float("-inf"))
        total, acc = torch.zeros_like(top), torch.zeros_like(q)
        for start in range(0, k.shape[-2], self.width):
            keys = slice(start, start + self.width)
            s = every(every(q @ k[..., keys, :].mT) * scale)
            new_top = kept(torch.maximum(top, self.subtracted(s)))
            p = every(torch.exp(every(s - new_top[..., None])))
            shrink = every(torch.exp(every(top - new_top)))
            total = kept(every(total * shrink) + every(p.sum(-1)))
            acc = kept(every(acc * shrink[..., None]) + every(rounded(p) @ v[..., keys, :]))
            top = new_top
        return rounded(acc / total[..., None]), top + total.log()

    def subtracted(self, s: Tensor) -> Tensor:
        """What is subtracted from a block's scores (..., keys), but for an earlier block's larger one: (...)."""
        top = s.amax(-1)
        if not self.shift:
            return top
        repeated = (s == top[..., None]).sum(-1) > 1
        return torch.where(repeated, torch.where(top > 0, 2 * top, 0.0), top)


def gradients(
    q: Tensor, k: Tensor, v: Tensor, dout: Tensor, out: Tensor, lse: Tensor, scale: float, dtype: torch.dtype
) -> list[Tensor]:
    """Algorithm 2 in fp32 but for P and dS, which are rounded to the dtype: dQ, dK and dV, not yet rounded.

    q, k, v, dout, out are fp32 (..., seqlen, head_dim), lse (..., seqlen_q).
    """
    p = torch.exp((q @ k.mT) * scale - lse[..., None])
    ds = (p * (dout @ v.mT - (dout * out).sum(-1, keepdim=True))).to(dtype).float()
    return [scale * (ds @ k), scale * (ds.mT @ q), p.to(dtype).float().mT @ dout]


def _check(problem: Problem) -> None:
    plain = Problem(
        dtype=problem.dtype,
        lengths=problem.lengths,
        heads_q=problem.heads_q,
        heads_kv=problem.heads_q,
        head_dim=problem.head_dim,
        scale=problem.scale,
        values=problem.values,
        seed=problem.seed,
        direction=problem.direction,
    )
    if problem != plain or not isinstance(problem.lengths, Dense) or not min(problem.seqlens_k):
        raise ValueError(
            f"{problem.to_json()}: the studies' flash attention takes dense problems with keys, as many key heads as "
            "query heads, and no mask, softcap, ALiBi, dropout or special layout"
        )
