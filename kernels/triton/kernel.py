"""Our Triton FlashAttention-2 as a kernel under verification."""

from typing import Any

import torch
from torch import Tensor

from fa2verify.kernels.autograd import AutogradKernel, Forward
from fa2verify.kernels.problem import Problem
from fa2verify.kernels.tensors import Tensors
from fa2verify.kernels.triton.arguments import MAX_HEAD_DIM
from fa2verify.kernels.triton.mode import unavailable


class TritonKernel(AutogradKernel):
    """`fa2verify.kernels.triton.attention`, forward and backward, with every choice that a problem has."""

    name = "fa2verify-triton"
    lineage = "fa2verify-triton"
    gives_lse = True
    score_dtype = "fp32"

    def unavailable(self, device: torch.device) -> tuple[str, ...]:
        """Why it cannot run on `device` here: on the CPU it needs Triton's interpreter, on a GPU its compiler."""
        return unavailable(device)

    def unsupported(self, problem: Problem) -> tuple[str, ...]:
        """Only a head_dim above 256 is."""
        if problem.head_dim > MAX_HEAD_DIM:
            return (f"head_dim {problem.head_dim} is above {MAX_HEAD_DIM}, the widest tile that it is made for",)
        return ()

    def forward_of(self, problem: Problem, tensors: Tensors) -> Forward:
        """Run the call; see `fa2verify.kernels.interface.attention`."""
        # Imported here: the kernels' modules import triton, which a machine that only lists kernels may lack.
        from fa2verify.kernels.triton.attention import attention

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
