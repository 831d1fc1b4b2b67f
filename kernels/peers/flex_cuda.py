"""FlexAttention on CUDA: inductor's Triton template, forward and backward."""

from typing import Any

import torch
from torch import Tensor

from fa2verify.kernels.peers import lineages
from fa2verify.kernels.peers.cuda_device import lacks_cuda
from fa2verify.kernels.peers.flex import FlexKernel
from fa2verify.kernels.problem import Problem


class FlexCudaKernel(FlexKernel):
    """Compiled flex_attention. Its log-sum-exp is natural, -inf for a row that sees no key."""

    name = "torch-flex"
    lineage = lineages.FLEX_TRITON
    gives_lse = True
    budget = 0.2

    def unavailable(self, device: torch.device) -> tuple[str, ...]:
        """Without a CUDA device of compute capability 8.0, Triton's floor."""
        return lacks_cuda(device, (8, 0))

    def limits(self, problem: Problem) -> tuple[str, ...]:
        """A sequence of length zero, and a head_dim below 16."""
        reasons = []
        if 0 in problem.seqlens_q or 0 in problem.seqlens_k:
            reasons.append("flex_attention promises nothing for a sequence of length zero.")
        if problem.head_dim < 16:
            reasons.append(f"The template's tl.dot needs head_dim of at least 16, not {problem.head_dim}.")
        return tuple(reasons)

    def prepare(self, tensor: Tensor) -> Tensor:
        """Mark heads as constants."""
        # With symbolic ones inductor never picks its decoding kernel, which real users get.
        torch._dynamo.mark_static(tensor, 1)
        return tensor

    def lse_request(self) -> dict[str, Any]:
        """Ask for lse."""
        from torch.nn.attention.flex_attention import AuxRequest

        return {"return_aux": AuxRequest(lse=True)}
