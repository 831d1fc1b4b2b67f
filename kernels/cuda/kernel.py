"""Our CUDA FlashAttention-2 as kernels under verification: on a GPU, and its source on a CPU."""

import torch
from torch import Tensor

from fa2verify.kernels.autograd import differentiate
from fa2verify.kernels.cuda import gpu_compiler, host_compiler
from fa2verify.kernels.cuda.attention import attention
from fa2verify.kernels.cuda.call import Options
from fa2verify.kernels.cuda.configuration import MAX_HEAD_DIM
from fa2verify.kernels.kernel import Kernel, Outputs
from fa2verify.kernels.problem import Problem
from fa2verify.kernels.tensors import Tensors

_CAPABILITY = (8, 0)


class CudaKernel(Kernel):
    """`fa2verify.kernels.cuda.attention` on a GPU; the backward always has the same bits."""

    name = "fa2verify-cuda"
    lineage = "fa2verify-cuda"
    gives_lse = True
    score_dtype = "fp32"

    def unavailable(self, device: torch.device) -> tuple[str, ...]:
        """Why it cannot run on `device`: it needs an NVIDIA GPU, NVRTC and cuda-core."""
        if device.type != "cuda":
            return (f"it runs on cuda devices, not on {device.type!r}; fa2verify-cuda-emulated runs on the cpu",)
        if torch.version.hip is not None:
            return ("it is for NVIDIA GPUs; this torch is built for ROCm",)
        capability = torch.cuda.get_device_capability(device)
        if capability < _CAPABILITY:
            return (f"it needs compute capability 8.0 or later, not {capability[0]}.{capability[1]}",)
        return gpu_compiler.unavailable()

    def unsupported(self, problem: Problem) -> tuple[str, ...]:
        """Name head_dim above 256."""
        if problem.head_dim > MAX_HEAD_DIM:
            return (f"head_dim {problem.head_dim} is above {MAX_HEAD_DIM}, the widest tile that it is made for",)
        return ()

    def __call__(self, problem: Problem, tensors: Tensors) -> Outputs:
        """Run the call; see `fa2verify.kernels.cuda.attention`."""
        options = Options(
            causal=problem.causal,
            window=problem.window,
            scale=problem.scale,
            softcap=problem.softcap,
            alibi_slopes=tensors.alibi_slopes,
            dropout=problem.dropout,
            dropout_seed=problem.dropout_seed,
            cu_seqlens_q=tensors.cu_seqlens_q,
            cu_seqlens_k=tensors.cu_seqlens_k,
            max_seqlen_q=tensors.max_seqlen_q,
            max_seqlen_k=tensors.max_seqlen_k,
        )

        def forward(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            return attention(q, k, v, options)

        return differentiate(forward, problem, tensors)


class EmulatedCudaKernel(CudaKernel):
    """The same source on a CPU, thread for thread: of one lineage with `CudaKernel`."""

    name = "fa2verify-cuda-emulated"

    def unavailable(self, device: torch.device) -> tuple[str, ...]:
        """Why it cannot run on `device`: it needs x86-64 Linux and a C++20 compiler."""
        if device.type != "cpu":
            return (f"the emulator runs on the cpu, not on {device.type!r}; fa2verify-cuda runs on GPUs",)
        return host_compiler.unavailable()
