"""Our Triton FlashAttention-2 as a kernel under verification."""

import torch

from fa2verify.kernels.autograd import differentiate
from fa2verify.kernels.kernel import Kernel, Outputs
from fa2verify.kernels.problem import Problem
from fa2verify.kernels.tensors import Tensors
from fa2verify.kernels.triton.call import MAX_HEAD_DIM
from fa2verify.kernels.triton.mode import unavailable


class TritonKernel(Kernel):
    """`fa2verify.kernels.triton.attention`, forward and backward; the backward always has the same bits."""

    name = "fa2verify-triton"
    lineage = "fa2verify-triton"
    gives_lse = True
    score_dtype = "fp32"

    def unavailable(self, device: torch.device) -> tuple[str, ...]:
        """Why it cannot run on `device` here: on the CPU it needs Triton's interpreter, on a GPU its compiler."""
        return unavailable(device)

    def unsupported(self, problem: Problem) -> tuple[str, ...]:
        """Name what it does not compute yet (window, softcap, ALiBi, dropout) and head_dim above 256."""
        reasons = []
        if problem.head_dim > MAX_HEAD_DIM:
            reasons.append(f"head_dim {problem.head_dim} is above {MAX_HEAD_DIM}, the widest tile that it is made for")
        if problem.window != (-1, -1):
            reasons.append("it has no sliding window")
        if problem.softcap:
            reasons.append("it has no softcap")
        if problem.alibi is not None:
            reasons.append("it has no ALiBi")
        if problem.dropout:
            reasons.append("it has no dropout")
        return tuple(reasons)

    def __call__(self, problem: Problem, tensors: Tensors) -> Outputs:
        """Run the call; see `fa2verify.kernels.triton.attention`."""
        # Imported here: the kernels' modules import triton, which a machine that only lists kernels may lack.
        from fa2verify.kernels.triton.attention import attention, varlen_attention

        def forward(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            if tensors.cu_seqlens_q is None or tensors.cu_seqlens_k is None:
                return attention(q, k, v, causal=problem.causal, scale=problem.scale)
            return varlen_attention(
                q,
                k,
                v,
                tensors.cu_seqlens_q,
                tensors.cu_seqlens_k,
                tensors.max_seqlen_q,
                tensors.max_seqlen_k,
                causal=problem.causal,
                scale=problem.scale,
            )

        return differentiate(forward, problem, tensors)
