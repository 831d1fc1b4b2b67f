"""Our Triton kernels as a backend of the interface: which kernels a forward and a backward launch, in which order."""

import torch
from torch import Tensor

from fa2verify.kernels.interface.call import Call
from fa2verify.kernels.triton.arguments import MAX_HEAD_DIM
from fa2verify.kernels.triton.backward_dkdv import backward_dkdv
from fa2verify.kernels.triton.backward_dq import backward_dq
from fa2verify.kernels.triton.forward import forward
from fa2verify.kernels.triton.mode import unavailable
from fa2verify.kernels.triton.preprocess import preprocess
from fa2verify.kernels.triton.probabilities import probabilities


class TritonBackend:
    """Our Triton kernels; see `fa2verify.kernels.interface.backend.Backend`."""

    name = "triton"
    max_head_dim = MAX_HEAD_DIM

    def unavailable(self, device: torch.device) -> tuple[str, ...]:
        """Why they cannot run on `device`, in sentences."""
        return unavailable(device)

    def forward(self, call: Call, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor) -> None:
        """Fill `out` and `lse`."""
        forward(call, q, k, v, out, lse)

    def backward(
        self,
        call: Call,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        dout: Tensor,
        dlse: Tensor | None,
        dq: Tensor | None,
        dk: Tensor | None,
        dv: Tensor | None,
        deterministic: bool,  # noqa: ARG002 -- every sum has one order, asked for or not
    ) -> None:
        """Fill the gradients that are not None."""
        delta, lse_log2 = torch.empty_like(lse), torch.empty_like(lse)
        preprocess(call, out, dout, lse, dlse, delta, lse_log2)
        if dk is not None and dv is not None:
            backward_dkdv(call, q, k, v, dout, lse_log2, delta, dk, dv)
        if dq is not None:
            backward_dq(call, q, k, v, dout, lse_log2, delta, dq)

    def probabilities(self, call: Call, q: Tensor, k: Tensor, lse: Tensor, weights: Tensor) -> None:
        """Fill the visible part of `weights`."""
        probabilities(call, q, k, lse, weights)
