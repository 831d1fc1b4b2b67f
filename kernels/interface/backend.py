"""What kernels must offer to stand behind the interface: fill tensors that the interface has checked and allocated."""

from typing import Protocol

import torch
from torch import Tensor

from fa2verify.kernels.interface.call import Call


class Backend(Protocol):
    """Kernels for attention, forward and backward.

    name           of the torch operators' namespace: an identifier
    max_head_dim   the largest head_dim

    q and out are (batch, seqlen_q, heads_q, head_dim), varlen (total_q, heads_q, head_dim), k and v alike with their
    own lengths and heads_kv; strides are free but in the last dimension, which is contiguous, for dout too. lse and
    what is shaped like it are contiguous fp32 (batch, heads_q, seqlen_q), varlen (heads_q, total_q). Gradients are
    shaped like their tensors and contiguous. What a packed batch holds past its last sequence is already cleared and
    left alone.
    Everything runs on the tensors' device and its current stream, without waiting for it.
    """

    name: str
    max_head_dim: int

    def unavailable(self, device: torch.device) -> tuple[str, ...]:
        """Why it cannot run on `device`, in sentences. Empty: it can."""

    def forward(self, call: Call, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor) -> None:
        """Fill `out` and `lse` (-inf for a query that sees no key)."""

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
        deterministic: bool,
    ) -> None:
        """Fill those gradients that are not None; `dk` and `dv` are both None or neither is.

        deterministic  two calls give the same bits
        """

    def probabilities(self, call: Call, q: Tensor, k: Tensor, lse: Tensor, weights: Tensor) -> None:
        """Fill the visible part of `weights`, zeros of q's dtype: (batch, heads_q, >= seqlen_q, >= seqlen_k).

        The attention weights, negated where dropout drops them.
        """
