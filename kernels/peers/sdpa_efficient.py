"""torch SDPA, memory-efficient backend on CUDA: xformers' CUTLASS kernels.

Limits as in torch's aten/src/ATen/native/transformers/cuda/sdp_utils.cpp (`can_use_mem_efficient_attention`): no
grouped heads up to torch 2.13, head_dim a multiple of 8 in half precision, no empty sequence. Torch's own test
(test_fully_masked_out_rows) claims 0 for rows that a mask hides entirely, so they are asked for.
"""

import torch
from torch.nn.attention import SDPBackend

from fa2verify.kernels.peers import lineages
from fa2verify.kernels.peers.cuda_device import lacks_cuda
from fa2verify.kernels.peers.sdpa import SdpaKernel, empty_sequence
from fa2verify.kernels.problem import Problem


class SdpaEfficientKernel(SdpaKernel):
    """The memory-efficient backend. Its bottom-right mode is the kernel's own, behind causal_lower_right."""

    name = "torch-efficient"
    lineage = lineages.XFORMERS_CUTLASS
    backend = SDPBackend.EFFICIENT_ATTENTION
    has_lower_right = True

    def unavailable(self, device: torch.device) -> tuple[str, ...]:
        """Without a CUDA device of compute capability 8.0."""
        # Its kernels reach back to 5.0, but bf16 only to 8.0: older devices are left out whole.
        return lacks_cuda(device, (8, 0))

    def limits(self, problem: Problem) -> tuple[str, ...]:
        """See the module's list."""
        reasons = [*empty_sequence(problem)]
        if problem.group > 1:
            reasons.append(
                "The efficient backend takes as many key heads as query heads; the adapter does not repeat them."
            )
        if problem.head_dim % 8:
            reasons.append(f"The efficient backend needs head_dim to be a multiple of 8, not {problem.head_dim}.")
        return tuple(reasons)
