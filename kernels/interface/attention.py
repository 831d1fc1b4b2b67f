"""Attention by one backend, with everything that our kernels can do: checked, differentiable, an operator inside.

flash-attn's functions (`fa2verify.kernels.interface.flash_attn`) are this with fewer choices: the alignment of a causal
mask is bottom-right, and the seed of dropout comes from torch's generator.
"""

from typing import get_args

import torch
from torch import Tensor

from fa2verify.kernels.interface.backend import Backend
from fa2verify.kernels.interface.checks import (
    DENSE,
    PACKED,
    check_agreement,
    check_alibi,
    check_batches,
    check_derivatives,
    check_dropout,
    check_flag,
    check_offsets,
    check_scale,
    check_seed,
    check_softcap,
    check_tensor,
    check_window,
)
from fa2verify.kernels.interface.operators import Operators
from fa2verify.kernels.problem import Causal

# Operators take 64-bit integers, Python has wider ones. Both lengths together are shorter: it reaches past every key.
_WIDEST = 2**31 - 1


class Attention:
    """Attention by one backend; make one a process, since its operators are global to torch."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.operators = Operators(backend)

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        cu_seqlens_q: Tensor | None = None,
        cu_seqlens_k: Tensor | None = None,
        max_seqlen_q: int = 0,
        max_seqlen_k: int = 0,
        causal: Causal | None = None,
        window_size: tuple[int, int] = (-1, -1),
        softmax_scale: float | None = None,
        softcap: float = 0.0,
        alibi_slopes: Tensor | None = None,
        dropout_p: float = 0.0,
        dropout_seed: Tensor | None = None,
        deterministic: bool = False,
        return_weights: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Attention over equal lengths, or, with cu_seqlens, over packed sequences of their own.

        q              fp16 or bf16 (batch, seqlen_q, heads_q, head_dim), packed (total_q, heads_q, head_dim)
        k, v           the same dtype, (batch, seqlen_k, heads_kv, head_dim), packed (total_k, heads_kv, head_dim)
        cu_seqlens_q   int32 (batch + 1), from 0, not decreasing, at most total_q: where each sequence begins in q
        cu_seqlens_k   the same for k and v
        max_seqlen_q   at least the longest query length: rows beyond it would not be computed
        max_seqlen_k   at least the longest key length
        causal         None, "top_left" (query i sees keys j <= i) or "bottom_right" (j <= i + seqlen_k - seqlen_q)
        window_size    (left, right) keys around the diagonal, both ends inclusive, -1 meaning unbounded
        softmax_scale  within 1e26, by which no fp16 score overflows fp32; 1 / sqrt(head_dim) by default
        softcap        c in c * tanh(s / c), within 1e30; 0 and below mean none
        alibi_slopes   fp32 (heads_q,) or (batch, heads_q)
        dropout_p      probability of dropping an attention weight, in [0, 1)
        dropout_seed   int64 (1,): selects the mask (`fa2verify.kernels.dropout`); by default drawn by torch's generator
        deterministic  two backward calls give the same bits
        return_weights whether to compute the attention weights, with dropout alone

        Strides are free but in the last dimension, which must be contiguous. Values of cu_seqlens and of max_seqlen are
        checked on the CPU alone: on a GPU that would wait for the device.

        Returns out, shaped like q; lse, fp32 (batch, heads_q, seqlen_q) or (heads_q, total_q), natural log; and the
        weights, of q's dtype, (batch, heads_q, seqlen_q, seqlen_k) with both lengths rounded up to multiples of 128,
        negated where dropped, without gradient, or an empty tensor; packed, a length there is max_seqlen, at most all
        rows. A query that sees no key has out 0, lse -inf and
        gradients 0, and so have rows past the last packed sequence. Gradients flow through out and lse.
        Raises TypeError or ValueError, naming the argument, what it was and what is accepted.
        """
        dimensions = DENSE if cu_seqlens_q is None and cu_seqlens_k is None else PACKED
        for name, tensor in (("q", q), ("k", k), ("v", v)):
            check_tensor(name, tensor, dimensions, self.backend.max_head_dim)
        check_agreement(q, k, v)
        batch = q.shape[0]
        if dimensions is PACKED:
            check_offsets("cu_seqlens_q", cu_seqlens_q, "max_seqlen_q", max_seqlen_q, "q", q)
            check_offsets("cu_seqlens_k", cu_seqlens_k, "max_seqlen_k", max_seqlen_k, "k", k)
            assert cu_seqlens_q is not None, "checked just now"
            assert cu_seqlens_k is not None, "checked just now"
            check_batches("cu_seqlens_q", cu_seqlens_q, "cu_seqlens_k", cu_seqlens_k)
            batch = cu_seqlens_q.shape[0] - 1
        check_scale(softmax_scale)
        check_softcap(softcap)
        check_dropout(dropout_p)
        check_window(window_size)
        check_alibi(alibi_slopes, batch, q.shape[-2], q.device)
        check_flag("deterministic", deterministic)
        check_flag("return_weights", return_weights)
        if causal is not None and causal not in get_args(Causal):
            raise ValueError(f"causal is {causal!r}; it must be None, 'top_left' or 'bottom_right'")
        check_seed(dropout_seed, q.device)
        check_derivatives(
            q=q, k=k, v=v, cu_seqlens_q=cu_seqlens_q, cu_seqlens_k=cu_seqlens_k, alibi_slopes=alibi_slopes
        )
        if dropout_p == 0:
            dropout_seed = None
        elif dropout_seed is None:
            # Drawn on the device, in the current stream: nothing waits, and a captured graph draws anew each replay.
            dropout_seed = torch.randint(2**63 - 1, (1,), dtype=torch.int64, device=q.device)
        left, right = (min(side, _WIDEST) for side in window_size)
        options = (
            cu_seqlens_q,
            cu_seqlens_k,
            alibi_slopes,
            dropout_seed,
            max_seqlen_q,
            max_seqlen_k,
            causal,
            left,
            right,
            None if softmax_scale is None else float(softmax_scale),
            float(softcap),
            float(dropout_p),
            deterministic,
        )
        out, lse = self.operators.forward(q, k, v, *options)
        if return_weights and dropout_p:
            weights = self.operators.probabilities(q.detach(), k.detach(), lse.detach(), *options)
        else:
            weights = q.new_empty(0)
        return out, lse, weights
