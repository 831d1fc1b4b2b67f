"""A call that passed its checks, and which of them the same call has to pass again.

Why it is kept, and by what: `fa2verify.kernels.interface.signature`.
"""

from dataclasses import dataclass
from typing import Any, get_args

from torch import Tensor

from fa2verify.kernels.interface.checks import (
    DENSE,
    PACKED,
    check_agreement,
    check_alibi,
    check_batches,
    check_derivatives,
    check_dropout,
    check_flag,
    check_no_gradient,
    check_offsets,
    check_scale,
    check_seed,
    check_softcap,
    check_tensor,
    check_values,
    check_window,
)
from fa2verify.kernels.interface.memory import check_memory, span_of
from fa2verify.kernels.interface.signature import Signature, signature_of
from fa2verify.kernels.problem import Causal

# Operators take 64-bit integers, Python has wider ones. Both lengths together are shorter: it reaches past every key.
_WIDEST = 2**31 - 1

# q, k, v, cu_seqlens_q, cu_seqlens_k, alibi_slopes, dropout_seed
Tensors = tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None]
# max_seqlen_q, max_seqlen_k, causal, window_size, softmax_scale, softcap, dropout_p, deterministic, return_weights
Choices = tuple[int, int, Causal | None, tuple[int, int], float | None, float, float, bool, bool]


@dataclass(frozen=True, slots=True)
class Accepted:
    """What is kept of a call that passed.

    spans    `span_of` each tensor, None of one that is not given
    options  those of the operators that are no tensors: max_seqlen_q, max_seqlen_k, causal, left, right, softmax_scale,
             softcap, dropout_p, deterministic
    """

    spans: tuple[int | None, ...]
    options: tuple[Any, ...]

    @classmethod
    def of(cls, tensors: Tensors, options: tuple[Any, ...]) -> "Accepted":
        """What `check` accepted and gave."""
        return cls(tuple(None if tensor is None else span_of(tensor) for tensor in tensors), options)

    def check_again(self, tensors: Tensors) -> None:
        """Check what no signature says, in the order of `check`. Raises ValueError."""
        q, k, v, cu_seqlens_q, cu_seqlens_k, alibi_slopes, dropout_seed = tensors
        check_memory("q", q, self.spans[0])
        check_memory("k", k, self.spans[1])
        check_memory("v", v, self.spans[2])
        if cu_seqlens_q is not None and cu_seqlens_k is not None:
            check_memory("cu_seqlens_q", cu_seqlens_q, self.spans[3])
            check_values("cu_seqlens_q", cu_seqlens_q, "max_seqlen_q", self.options[0], "q", q.shape[0])
            check_memory("cu_seqlens_k", cu_seqlens_k, self.spans[4])
            check_values("cu_seqlens_k", cu_seqlens_k, "max_seqlen_k", self.options[1], "k", k.shape[0])
        if alibi_slopes is not None:
            check_memory("alibi_slopes", alibi_slopes, self.spans[5])
            check_no_gradient("alibi_slopes", alibi_slopes)
        if dropout_seed is not None:
            check_memory("dropout_seed", dropout_seed, self.spans[6])
        check_derivatives(
            q=q, k=k, v=v, cu_seqlens_q=cu_seqlens_q, cu_seqlens_k=cu_seqlens_k, alibi_slopes=alibi_slopes
        )


def signature(tensors: Tensors, choices: Choices) -> Signature | None:
    """What the checks look at beside memory, values and derivatives; None for a call that is always checked whole."""
    window = choices[3]
    # Within a tuple, too, True would be taken for 1.
    return signature_of(tensors, choices + window) if type(window) is tuple else None


def check(tensors: Tensors, choices: Choices, max_head_dim: int) -> tuple[Any, ...]:
    """Check all of a call and give the options that are no tensors, see `Accepted`.

    Raises TypeError or ValueError, naming the argument, what it was and what is accepted.
    """
    q, k, v, cu_seqlens_q, cu_seqlens_k, alibi_slopes, dropout_seed = tensors
    (
        max_seqlen_q,
        max_seqlen_k,
        causal,
        window_size,
        softmax_scale,
        softcap,
        dropout_p,
        deterministic,
        return_weights,
    ) = choices
    dimensions = DENSE if cu_seqlens_q is None and cu_seqlens_k is None else PACKED
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        check_tensor(name, tensor, dimensions, max_head_dim)
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
    check_derivatives(q=q, k=k, v=v, cu_seqlens_q=cu_seqlens_q, cu_seqlens_k=cu_seqlens_k, alibi_slopes=alibi_slopes)
    left, right = (min(side, _WIDEST) for side in window_size)
    scale = None if softmax_scale is None else float(softmax_scale)
    return max_seqlen_q, max_seqlen_k, causal, left, right, scale, float(softcap), float(dropout_p), deterministic
