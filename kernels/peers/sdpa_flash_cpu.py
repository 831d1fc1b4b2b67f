"""torch SDPA, flash backend on a CPU: torch's own blocked kernel, which shares its name and no code with flash-attn.

It takes masks and unequal lengths with `is_causal`; grouped heads, any head_dim and rows that see nothing work (read
off runs with torch 2.13: 0, as from the math backend).
"""

import torch
from torch.nn.attention import SDPBackend

from fa2verify.kernels.peers import lineages
from fa2verify.kernels.peers.sdpa import SdpaKernel, empty_sequence
from fa2verify.kernels.problem import Problem


class SdpaFlashCpuKernel(SdpaKernel):
    """The flash backend on CPU tensors."""

    name = "torch-flash-cpu"
    lineage = lineages.ATEN_CPU_FLASH
    backend = SDPBackend.FLASH_ATTENTION

    def unavailable(self, device: torch.device) -> tuple[str, ...]:
        """Off the CPU."""
        if device.type != "cpu":
            return (f"It runs on the CPU alone, not on {device.type!r}.",)
        return ()

    def limits(self, problem: Problem) -> tuple[str, ...]:
        """Empty sequences."""
        return empty_sequence(problem)
