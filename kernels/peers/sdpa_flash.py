"""torch SDPA, flash backend on CUDA: torch's copy of flash-attn 2.

Limits as in torch's aten/src/ATen/native/transformers/cuda/sdp_utils.cpp (`can_use_flash_attention`): no mask, no
`is_causal` for unequal lengths, head_dim at most 256 (the door pads to a multiple of 8), no empty sequence.
"""

import torch
from torch.nn.attention import SDPBackend

from fa2verify.kernels.peers import lineages
from fa2verify.kernels.peers.cuda_device import capability, lacks_cuda
from fa2verify.kernels.peers.sdpa import SdpaKernel, empty_row, empty_sequence
from fa2verify.kernels.problem import Problem


class SdpaFlashKernel(SdpaKernel):
    """The flash backend. Grouped heads reach the kernel as they are; it repeats nothing."""

    name = "torch-flash"
    lineage = lineages.FLASH_ATTENTION_2_IN_TORCH
    backend = SDPBackend.FLASH_ATTENTION
    has_lower_right = True

    def unavailable(self, device: torch.device) -> tuple[str, ...]:
        """Without a CUDA device of compute capability 8.0, or in a torch built without it."""
        missing = lacks_cuda(device, (8, 0))
        if not missing and not torch.backends.cuda.is_flash_attention_available():
            missing = ("This torch was built without flash attention.",)
        return missing

    def limits(self, problem: Problem) -> tuple[str, ...]:
        """See the module's list."""
        reasons = [*empty_sequence(problem), *empty_row(problem)]
        if problem.window != (-1, -1):
            reasons.append("The flash backend takes no mask, and scaled_dot_product_attention has no window.")
        if problem.causal == "top_left" and problem.seqlens_q != problem.seqlens_k:
            reasons.append("The flash backend is causal top-left only where seqlen_q == seqlen_k.")
        if problem.head_dim > 256:
            reasons.append(f"The flash backend takes head_dim up to 256, not {problem.head_dim}.")
        if problem.backward and 192 < problem.head_dim <= 224 and _small_shared_memory():
            reasons.append(
                "Its backward does not take head_dim from 193 to 224 on compute capability 8.6, 8.9 and 12.x."
            )
        return tuple(reasons)


def _small_shared_memory() -> bool:
    found = capability()
    return found is not None and ((8, 6) <= found <= (8, 9) or (12, 0) <= found <= (12, 1))
