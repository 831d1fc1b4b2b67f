"""torch SDPA, math backend, on CPU and GPU: plain PyTorch operations.

It keeps fp16 and bf16 scores in fp32 (allowFP16BF16ReductionMathSDP is off by default), so it is much closer to the
reference than the baseline of the 2x rule, which rounds scores to the dtype.
"""

import os

import torch
from torch.nn.attention import SDPBackend

from fa2verify.kernels.peers import lineages
from fa2verify.kernels.peers.sdpa import SdpaKernel
from fa2verify.kernels.problem import Problem

# What cuBLAS needs for reproducible results, https://docs.nvidia.com/cuda/cublas/#results-reproducibility
_WORKSPACES = (":4096:8", ":16:8")

# Elements of q that no value family, of means up to 2, brings near fp16's largest number by addition.
_SUMMABLE = 2**13


class SdpaMathKernel(SdpaKernel):
    """The math backend. A row that sees no key gives 0 (_safe_softmax), as the contract has it."""

    name = "torch-math"
    lineage = lineages.ATEN_MATH
    backend = SDPBackend.MATH

    def unavailable(self, device: torch.device) -> tuple[str, ...]:
        """On other devices than CPU and CUDA."""
        if device.type == "cuda" and not torch.cuda.is_available():
            return ("torch sees no CUDA device.",)
        if device.type not in ("cpu", "cuda"):
            return (f"This adapter runs on 'cpu' and 'cuda', not on {device.type!r}.",)
        return ()

    def limits(self, problem: Problem) -> tuple[str, ...]:
        """Several sequences or heads without a key, large ones in fp16, and gradients that cuBLAS would not order."""
        elements = sum(problem.seqlens_q) * problem.heads_q * problem.head_dim
        if problem.dtype == "float16" and 0 in problem.seqlens_k and elements > _SUMMABLE:
            # docs/findings/sdpa-without-a-key.md; a known failure that a ledger would run.
            return ("Without a key, fp16 out is NaN where q adds up to more than fp16 holds (torch 2.13).",)
        if 0 in problem.seqlens_k and problem.batch * problem.heads_kv > 1:
            # The same finding's other face, and the same ledger's.
            return ("Without a key, NaN in q of one sequence or head makes out of all of them NaN (torch 2.13).",)
        # torch itself raises without it, on CUDA alone; the problem does not say where it will run.
        if (
            problem.deterministic
            and problem.backward
            and torch.cuda.is_available()
            and os.environ.get("CUBLAS_WORKSPACE_CONFIG") not in _WORKSPACES
        ):
            return (
                f"cuBLAS is deterministic only with CUBLAS_WORKSPACE_CONFIG set to one of {', '.join(_WORKSPACES)}.",
            )
        return ()
