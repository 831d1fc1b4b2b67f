"""Attention by one backend, with everything that our kernels can do: checked, differentiable, an operator inside.

flash-attn's functions (`fa2verify.kernels.interface.flash_attn`) are this with fewer choices: the alignment of a causal
mask is bottom-right, and the seed of dropout comes from torch's generator.
"""

from typing import Any

import torch
from torch import Tensor

from fa2verify.kernels.interface.acceptance import Accepted, Choices, Tensors, check, signature
from fa2verify.kernels.interface.backend import Backend
from fa2verify.kernels.interface.operators import Operators
from fa2verify.kernels.interface.signature import Kept
from fa2verify.kernels.problem import Causal


class Attention:
    """Attention by one backend; make one a process, since its operators are global to torch."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.operators = Operators(backend)
        self._accepted: Kept[Accepted] = Kept()

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
        tensors = (q, k, v, cu_seqlens_q, cu_seqlens_k, alibi_slopes, dropout_seed)
        choices = (
            *(max_seqlen_q, max_seqlen_k, causal, window_size),
            *(softmax_scale, softcap, dropout_p, deterministic, return_weights),
        )
        if torch.compiler.is_compiling():
            numbers = check(tensors, choices, self.backend.max_head_dim)
        else:
            numbers = self._check(tensors, choices)
        if dropout_p == 0:
            dropout_seed = None
        elif dropout_seed is None:
            # Drawn on the device, in the current stream: nothing waits, and a captured graph draws anew each replay.
            dropout_seed = torch.randint(2**63 - 1, (1,), dtype=torch.int64, device=q.device)
        options = (cu_seqlens_q, cu_seqlens_k, alibi_slopes, dropout_seed, *numbers)
        out, lse = self.operators.attend(q, k, v, *options)
        if return_weights and dropout_p:
            weights = self.operators.probabilities(q.detach(), k.detach(), lse.detach(), *options)
        else:
            weights = q.new_empty(0)
        return out, lse, weights

    def _check(self, tensors: Tensors, choices: Choices) -> tuple[Any, ...]:
        """All of a call of a new signature, and of a known one what a signature does not say."""
        known = signature(tensors, choices)
        accepted = self._accepted.get(known)
        if accepted is not None:
            accepted.check_again(tensors)
            return accepted.options
        options = check(tensors, choices, self.backend.max_head_dim)
        self._accepted.keep(known, Accepted.of(tensors, options))
        return options
