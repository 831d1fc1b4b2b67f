"""Our Triton FlashAttention-2 as a kernel under verification."""

import torch

from fa2verify.kernels.autograd import AutogradKernel, Forward
from fa2verify.kernels.interface.kernel import forward_of
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
    batch_invariant = True  # tiles depend on head_dim and device alone, and no row's sum is split

    def unavailable(self, device: torch.device) -> tuple[str, ...]:
        """Why it cannot run on `device` here: on the CPU it needs Triton's interpreter, on a GPU its compiler."""
        return unavailable(device)

    def unsupported(self, problem: Problem) -> tuple[str, ...]:
        """Only a head_dim above 256 is."""
        if problem.head_dim > MAX_HEAD_DIM:
            return (f"head_dim {problem.head_dim} is above {MAX_HEAD_DIM}, the widest tile that it is made for",)
        return ()

    def forward_of(self, problem: Problem, tensors: Tensors) -> Forward:
        """The call; see `fa2verify.kernels.interface.attention`."""
        # Imported here: the kernels' modules import triton, which a machine that only lists kernels may lack.
        from fa2verify.kernels.triton.attention import attention

        return forward_of(attention, problem, tensors)
