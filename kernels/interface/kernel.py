"""A kernel under verification that is our interface over one of our backends."""

from typing import Any

import torch
from torch import Tensor

from fa2verify.kernels.autograd import Forward
from fa2verify.kernels.interface.attention import Attention
from fa2verify.kernels.problem import Problem
from fa2verify.kernels.tensors import Tensors


def forward_of(attention: Attention, problem: Problem, tensors: Tensors) -> Forward:
    """The function of (q, k, v) that computes `problem` by `attention`, with every choice that a problem has."""
    options: dict[str, Any] = {
        "causal": problem.causal,
        "window_size": problem.window,
        "softmax_scale": problem.scale,
        "softcap": problem.softcap,
        "alibi_slopes": tensors.alibi_slopes,
        "dropout_p": problem.dropout,
        "deterministic": problem.deterministic,
    }
    if problem.dropout:
        options["dropout_seed"] = torch.tensor([problem.dropout_seed], device=tensors.q.device)
    if tensors.cu_seqlens_q is not None:
        options |= {
            "cu_seqlens_q": tensors.cu_seqlens_q,
            "cu_seqlens_k": tensors.cu_seqlens_k,
            "max_seqlen_q": tensors.max_seqlen_q,
            "max_seqlen_k": tensors.max_seqlen_k,
        }

    def forward(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        out, lse, _ = attention(q, k, v, **options)
        return out, lse

    return forward
