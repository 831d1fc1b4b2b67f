"""torch SDPA, cuDNN backend on CUDA.

Limits as in torch's aten/src/ATen/native/transformers/cuda/sdp_utils.cpp (`can_use_cudnn_attention`): head_dim a
multiple of 8 and at most 128, on compute capability 9.0 and 10.0 also 256 (what lies between has no backward there),
more than one key, no empty sequence, no deterministic mode.
"""

import torch
from torch.nn.attention import SDPBackend

from fa2verify.kernels.peers import lineages
from fa2verify.kernels.peers.cuda_device import capability, lacks_cuda
from fa2verify.kernels.peers.sdpa import SdpaKernel, empty_row, empty_sequence
from fa2verify.kernels.problem import Problem


class SdpaCudnnKernel(SdpaKernel):
    """The cuDNN backend. Grouped heads reach the library as they are."""

    name = "torch-cudnn"
    lineage = lineages.CUDNN
    backend = SDPBackend.CUDNN_ATTENTION

    def unavailable(self, device: torch.device) -> tuple[str, ...]:
        """Without a CUDA device of compute capability 8.0, or cuDNN."""
        missing = lacks_cuda(device, (8, 0))
        if not missing and not torch.backends.cudnn.is_available():  # type: ignore[no-untyped-call]
            missing = ("This torch was built without cuDNN.",)
        return missing

    def limits(self, problem: Problem) -> tuple[str, ...]:
        """See the module's list."""
        reasons = [*empty_sequence(problem), *empty_row(problem)]
        if problem.head_dim % 8:
            reasons.append(f"The cuDNN backend needs head_dim to be a multiple of 8, not {problem.head_dim}.")
        if problem.head_dim > 128 and not (problem.head_dim == 256 and capability() in ((9, 0), (10, 0))):
            reasons.append(
                f"The cuDNN backend takes head_dim up to 128, and 256 on compute capability 9.0 and 10.0, "
                f"not {problem.head_dim}."
            )
        if 1 in problem.seqlens_k:
            reasons.append("The cuDNN backend takes no key sequence of length 1.")
        if problem.deterministic and problem.backward:
            reasons.append("The cuDNN backend is not deterministic: torch refuses it in deterministic mode.")
        return tuple(reasons)
