"""torch.nn.functional.scaled_dot_product_attention with one backend forced: what its five peers share.

Forced with torch.nn.attention.sdpa_kernel, so that nothing falls back to another lineage in silence: a backend that
refuses raises, and a refusal that `unsupported` did not foresee is a finding.

The door's own semantics, translated exactly:
- `is_causal` is top-left. Bottom-right for unequal lengths is torch.nn.attention.bias.causal_lower_right where a
  backend has it, else an explicit boolean mask where a backend takes one.
- A window is an explicit boolean mask: the door has no parameter for it.
- A float mask would carry ALiBi, but in the problem's dtype: the bias itself would be rounded before it is added, an
  error far above the bounds and not the kernel's.
- Tensors go in as transposed views of (batch, seqlen, heads, head_dim), without a copy, so strides are exercised.
- The door gives no log-sum-exp.
"""

from abc import abstractmethod

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

from fa2verify.kernels.autograd import AutogradKernel, Forward
from fa2verify.kernels.kernel import Outputs
from fa2verify.kernels.mask import visible
from fa2verify.kernels.peers.determinism import deterministic_algorithms
from fa2verify.kernels.peers.empty_rows import has_empty_rows
from fa2verify.kernels.problem import Problem
from fa2verify.kernels.tensors import Tensors


class SdpaKernel(AutogradKernel):
    """scaled_dot_product_attention on one backend.

    backend          the one backend that is switched on during the call
    has_lower_right  whether the backend has a bottom-right mode behind causal_lower_right; else a mask is passed
    """

    backend: SDPBackend
    has_lower_right: bool = False

    @abstractmethod
    def limits(self, problem: Problem) -> tuple[str, ...]:
        """What this backend does not take of a dense problem that the door takes, in sentences."""

    def unsupported(self, problem: Problem) -> tuple[str, ...]:
        """What scaled_dot_product_attention lacks, then what its backend lacks."""
        reasons = list(_door(problem))
        if not problem.is_varlen:
            reasons += self.limits(problem)
        return tuple(reasons)

    def forward_of(self, problem: Problem, tensors: Tensors) -> Forward:  # noqa: ARG002 - the interface's
        """Run the backend. Raises RuntimeError if it refuses."""

        def forward(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, None]:
            return self._attend(problem, q, k, v), None

        return forward

    def __call__(self, problem: Problem, tensors: Tensors) -> Outputs:
        """Run it, in torch's deterministic mode if the problem asks for that."""
        with deterministic_algorithms(problem.deterministic and problem.backward):
            return super().__call__(problem, tensors)

    def _attend(self, problem: Problem, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Out, (batch, seqlen_q, heads_q, head_dim)."""
        is_causal = asks_is_causal(problem)
        mask = None if is_causal else self._mask(problem, q.device)
        with sdpa_kernel(self.backend):
            out = scaled_dot_product_attention(
                q.transpose(1, 2),
                k.transpose(1, 2),
                v.transpose(1, 2),
                attn_mask=mask,
                is_causal=is_causal,
                scale=problem.scale,
                enable_gqa=problem.group > 1,
            )
        return out.transpose(1, 2)

    def _mask(self, problem: Problem, device: torch.device) -> Tensor | None:
        if not asks_mask(problem):
            return None
        seqlen_q, seqlen_k = problem.seqlens_q[0], problem.seqlens_k[0]
        # Rows that see nothing are NaN under causal_lower_right by its documentation; a mask says them exactly.
        if self.has_lower_right and problem.window == (-1, -1) and not has_empty_rows(problem):
            return causal_lower_right(seqlen_q, seqlen_k)
        return visible(problem, seqlen_q, seqlen_k, device)


def asks_is_causal(problem: Problem) -> bool:
    """Whether the door's `is_causal` (top-left) is exactly what a dense `problem` asks for."""
    equal = problem.seqlens_q == problem.seqlens_k
    return problem.window == (-1, -1) and (problem.causal == "top_left" or (problem.causal == "bottom_right" and equal))


def asks_mask(problem: Problem) -> bool:
    """Whether a dense `problem` needs more than `is_causal`: a window, or bottom-right for unequal lengths."""
    return not asks_is_causal(problem) and (problem.causal is not None or problem.window != (-1, -1))


def empty_sequence(problem: Problem) -> tuple[str, ...]:
    """For a fused backend: why a sequence of length zero does not count."""
    if 0 not in problem.seqlens_q and 0 not in problem.seqlens_k:
        return ()
    return ("A sequence of length zero never reaches the backend: scaled_dot_product_attention answers it itself.",)


def empty_row(problem: Problem) -> tuple[str, ...]:
    """For a backend that does not say what a row that sees no key gives."""
    if not has_empty_rows(problem):
        return ()
    return ("torch does not say what this backend gives for a query that sees no key (causal_lower_right: NaN).",)


def _door(problem: Problem) -> tuple[str, ...]:
    reasons = []
    if problem.is_varlen:
        reasons.append("scaled_dot_product_attention takes no packed sequences with cu_seqlens.")
    if problem.softcap:
        reasons.append("scaled_dot_product_attention has no softcap.")
    if problem.alibi is not None:
        reasons.append("scaled_dot_product_attention takes ALiBi only as a float mask, rounded to the problem's dtype.")
    if problem.dropout:
        reasons.append("Its dropout mask is drawn by torch and cannot be reproduced.")
    return tuple(reasons)
