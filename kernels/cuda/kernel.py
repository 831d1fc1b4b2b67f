"""Our CUDA FlashAttention-2 as kernels under verification: on a GPU, and its source on a CPU."""

import torch

from fa2verify.kernels.autograd import AutogradKernel, Forward
from fa2verify.kernels.cuda.backend import CudaBackend
from fa2verify.kernels.cuda.configuration import MAX_HEAD_DIM
from fa2verify.kernels.problem import Problem
from fa2verify.kernels.tensors import Tensors


class CudaKernel(AutogradKernel):
    """`fa2verify.kernels.cuda.attention` on a GPU; a deterministic backward has the same bits in every run."""

    name = "fa2verify-cuda"
    lineage = "fa2verify-cuda"
    gives_lse = True
    score_dtype = "fp32"
    batch_invariant = True  # tiles depend on head_dim alone, and no row's sum is split

    def unavailable(self, device: torch.device) -> tuple[str, ...]:
        """Why it cannot run on `device`: it needs an NVIDIA GPU, NVRTC and cuda-core."""
        if device.type != "cuda":
            return (f"it runs on cuda devices, not on {device.type!r}; fa2verify-cuda-emulated runs on the cpu",)
        return CudaBackend().unavailable(device)

    def unsupported(self, problem: Problem) -> tuple[str, ...]:
        """Name head_dim above 256."""
        if problem.head_dim > MAX_HEAD_DIM:
            return (f"head_dim {problem.head_dim} is above {MAX_HEAD_DIM}, the widest tile that it is made for",)
        return ()

    def forward_of(self, problem: Problem, tensors: Tensors) -> Forward:
        """Run the call; see `fa2verify.kernels.interface.attention`."""
        # Imported here: who only lists kernels needs no torch operators.
        from fa2verify.kernels.cuda.attention import attention
        from fa2verify.kernels.interface.kernel import forward_of

        return forward_of(attention, problem, tensors)


class EmulatedCudaKernel(CudaKernel):
    """The same source on a CPU, thread for thread: of one lineage with `CudaKernel`."""

    name = "fa2verify-cuda-emulated"

    def unavailable(self, device: torch.device) -> tuple[str, ...]:
        """Why it cannot run on `device`: it needs x86-64 Linux and a C++20 compiler."""
        if device.type != "cpu":
            return (f"the emulator runs on the cpu, not on {device.type!r}; fa2verify-cuda runs on GPUs",)
        return CudaBackend().unavailable(device)
