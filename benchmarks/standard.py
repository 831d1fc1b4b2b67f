"""Standard attention: what FlashAttention's README compares with, plain PyTorch operations that keep every score.

Not the baseline of the 2x rule, which spells out more to be exact where no key is seen, and not PyTorch's math backend,
which computes half precision in fp32: this is what a model writes that has no fused attention at hand.
"""

import torch
from torch import Tensor

from fa2verify.kernels.autograd import AutogradKernel, Forward
from fa2verify.kernels.problem import Problem
from fa2verify.kernels.tensors import Tensors

NAME = "standard"


def standard_attention(q: Tensor, k: Tensor, v: Tensor, scale: float, hidden: Tensor | None) -> Tensor:
    """softmax(scale * Q K^T) V in the tensors' dtype.

    q, k, v  (batch, seqlen, heads, head_dim), heads of k and v dividing those of q
    hidden   (seqlen_q, seqlen_k) bool, true where a key is not seen; None where all are
    Returns (batch, seqlen_q, heads_q, head_dim).
    """
    group = q.shape[2] // k.shape[2]
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    if group > 1:
        k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
    scores = (q * scale) @ k.mT
    if hidden is not None:
        scores = scores.masked_fill(hidden, float("-inf"))
    return (torch.softmax(scores, dim=-1) @ v).transpose(1, 2)


def causal_mask(seqlen: int, device: torch.device) -> Tensor:
    """`hidden` of a causal mask over equal lengths."""
    return torch.ones(seqlen, seqlen, dtype=torch.bool, device=device).triu(1)


class StandardAttention(AutogradKernel):
    """Standard attention as an entrant of a race, for what benchmarks ask of it."""

    name = NAME
    lineage = "plain PyTorch"
    score_dtype = "dtype"

    def unavailable(self, device: torch.device) -> tuple[str, ...]:  # noqa: ARG002 - anywhere
        """Nowhere."""
        return ()

    def unsupported(self, problem: Problem) -> tuple[str, ...]:
        """Packed sequences, and whatever no benchmark asks for."""
        reasons = []
        if problem.is_varlen:
            reasons.append("Standard attention has no packed sequences.")
        if problem.causal is not None and problem.seqlens_q != problem.seqlens_k:
            reasons.append("Its causal mask is for equal lengths.")
        if problem.window != (-1, -1) or problem.softcap or problem.alibi or problem.dropout:
            reasons.append("It has a causal mask and a scale, and nothing else.")
        return tuple(reasons)

    def forward_of(self, problem: Problem, tensors: Tensors) -> Forward:
        """The function of (q, k, v); its mask is made beforehand."""
        hidden = causal_mask(problem.seqlens_q[0], tensors.q.device) if problem.causal is not None else None

        def forward(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, None]:
            return standard_attention(q, k, v, problem.softmax_scale, hidden), None

        return forward
