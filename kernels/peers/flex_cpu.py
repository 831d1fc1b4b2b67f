"""FlexAttention on a CPU: inductor's C++ template, forward alone.

Torch refuses tensors that require gradients there ("FlexAttention does not support backward on CPU") and gives no
log-sum-exp. What runs is the compiled template; a new combination of dtype, head_dim and mask takes about 3 s of C++
compilation, the first 14 s, so a thorough CPU run of this peer is slow.
"""

import os
import shutil

import torch

from fa2verify.kernels.peers import lineages
from fa2verify.kernels.peers.flex import FlexKernel
from fa2verify.kernels.problem import Problem


class FlexCpuKernel(FlexKernel):
    """Compiled flex_attention on CPU tensors."""

    name = "torch-flex-cpu"
    lineage = lineages.FLEX_CPP
    budget = 0.2
    only_when_named = "It compiles C++ for several seconds at each new combination of dtype, head_dim and mask."

    def unavailable(self, device: torch.device) -> tuple[str, ...]:
        """Off the CPU, or without a C++ compiler or AVX2."""
        if device.type != "cpu":
            return (f"It runs on the CPU alone, not on {device.type!r}.",)
        reasons = []
        compiler = os.environ.get("CXX", "g++")
        if shutil.which(compiler) is None:
            reasons.append(f"torch.compile needs a C++ compiler and finds no {compiler!r}.")
        if not torch.cpu._is_avx2_supported():
            reasons.append("The C++ template of flex_attention needs a CPU with AVX2.")
        return tuple(reasons)

    def limits(self, problem: Problem) -> tuple[str, ...]:
        """The backward."""
        if problem.backward:
            return ("flex_attention has no backward on a CPU: torch refuses tensors that require gradients.",)
        return ()
