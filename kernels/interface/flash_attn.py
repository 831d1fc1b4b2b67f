"""flash-attn 2.8's Python functions over any backend: the same names, signatures, defaults and return values.

What differs, on purpose:

* wrong input raises TypeError or ValueError before anything is launched, where flash-attn asserts, copies or crashes;
* lse of a query that sees no key is -inf, the logarithm of an empty sum, where flash-attn returns +inf;
* S_dmask holds normalised weights, where flash-attn's are relative to a block's running maximum;
* softcap and dropout go together, head_dim need not be a multiple of 8, and neither costs a copy.

Signatures: github.com/Dao-AILab/flash-attention, flash_attn/flash_attn_interface.py, v2.8.
"""

from typing import Any

from torch import Tensor

from fa2verify.kernels.interface.attention import Attention
from fa2verify.kernels.interface.checks import (
    DENSE,
    PACKED,
    check_agreement,
    check_flag,
    check_offsets,
    check_tensor,
)

Window = tuple[int, int]
Result = Tensor | tuple[Tensor, Tensor, Tensor]


class FlashAttention:
    """flash-attn's functions by one backend.

    Their common arguments:

    dropout_p          probability of dropping an attention weight, in [0, 1); 0 in evaluation. The mask's seed is drawn
                       by torch's generator of the tensors' device
    softmax_scale      a number within 1e26; None means 1 / sqrt(head_dim)
    causal             query i sees keys j <= i + seqlen_k - seqlen_q: the mask ends in the bottom right corner
    window_size        (left, right): query i sees keys from i + seqlen_k - seqlen_q - left to
                       i + seqlen_k - seqlen_q + right, both ends inclusive; -1 means unbounded
    softcap            c in c * tanh(s / c); 0 and below mean none
    alibi_slopes       fp32 (heads,) or (batch, heads): adds -slope * |i + seqlen_k - seqlen_q - j| to a score
    deterministic      two backward calls give the same bits
    return_attn_probs  return (out, softmax_lse, S_dmask) instead of out

    out is shaped like q and contiguous. softmax_lse is fp32 (batch, heads, seqlen_q), packed (heads, total_q), natural
    log, -inf for a query that sees no key; gradients flow through it. S_dmask, for testing: with dropout the attention
    weights in q's dtype, (batch, heads, seqlen_q, seqlen_k), both lengths (packed: max_seqlen, at most all rows)
    rounded up to multiples of 128, negative where the weight was dropped; without dropout an empty tensor, as in
    flash-attn.

    All raise TypeError or ValueError, naming the argument, what it was and what is accepted. Values in cu_seqlens and
    max_seqlen are checked on the CPU only: on a GPU that would wait for the device.

    Under torch.func: grad, vjp and jacrev give what autograd gives; vmap is a call for each sample, and with dropout
    wants `randomness`. Forward-mode derivatives (jvp, jacfwd) raise ValueError or NotImplementedError, second
    derivatives NotImplementedError. torch.compile traces a vmap; grad and vjp inside of what it compiles raise its
    RuntimeError.
    """

    def __init__(self, attention: Attention) -> None:
        self._attention = attention

    def flash_attn_func(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: Window = (-1, -1),
        softcap: float = 0.0,
        alibi_slopes: Tensor | None = None,
        deterministic: bool = False,
        return_attn_probs: bool = False,
    ) -> Result:
        """Attention over sequences of equal lengths.

        q     fp16 or bf16 (batch, seqlen_q, heads, head_dim)
        k, v  (batch, seqlen_k, heads_kv, head_dim); heads is a multiple of heads_kv

        The other arguments and what is returned: `FlashAttention`.
        """
        return self._run(
            q,
            k,
            v,
            causal,
            return_attn_probs,
            dropout_p=dropout_p,
            softmax_scale=softmax_scale,
            window_size=window_size,
            softcap=softcap,
            alibi_slopes=alibi_slopes,
            deterministic=deterministic,
        )

    def flash_attn_kvpacked_func(
        self,
        q: Tensor,
        kv: Tensor,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: Window = (-1, -1),
        softcap: float = 0.0,
        alibi_slopes: Tensor | None = None,
        deterministic: bool = False,
        return_attn_probs: bool = False,
    ) -> Result:
        """Attention over sequences of equal lengths, keys and values in one tensor.

        q   fp16 or bf16 (batch, seqlen_q, heads, head_dim)
        kv  (batch, seqlen_k, 2, heads_kv, head_dim)

        The other arguments and what is returned: `FlashAttention`.
        """
        k, v = self._keys_and_values(q, kv, DENSE, ("batch", "seqlen_k", "2", "heads_kv", "head_dim"))
        return self.flash_attn_func(
            q,
            k,
            v,
            dropout_p,
            softmax_scale,
            causal,
            window_size,
            softcap,
            alibi_slopes,
            deterministic,
            return_attn_probs,
        )

    def flash_attn_qkvpacked_func(
        self,
        qkv: Tensor,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: Window = (-1, -1),
        softcap: float = 0.0,
        alibi_slopes: Tensor | None = None,
        deterministic: bool = False,
        return_attn_probs: bool = False,
    ) -> Result:
        """Self-attention over sequences of equal lengths, everything in one tensor.

        qkv  fp16 or bf16 (batch, seqlen, 3, heads, head_dim)

        The other arguments and what is returned: `FlashAttention`.
        """
        self._check("qkv", qkv, ("batch", "seqlen", "3", "heads", "head_dim"))
        q, k, v = qkv.unbind(-3)
        return self.flash_attn_func(
            q,
            k,
            v,
            dropout_p,
            softmax_scale,
            causal,
            window_size,
            softcap,
            alibi_slopes,
            deterministic,
            return_attn_probs,
        )

    def flash_attn_varlen_func(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cu_seqlens_q: Tensor,
        cu_seqlens_k: Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: Window = (-1, -1),
        softcap: float = 0.0,
        alibi_slopes: Tensor | None = None,
        deterministic: bool = False,
        return_attn_probs: bool = False,
        block_table: Tensor | None = None,
    ) -> Result:
        """Attention over packed sequences of their own lengths.

        q              fp16 or bf16 (total_q, heads, head_dim)
        k, v           (total_k, heads_kv, head_dim)
        cu_seqlens_q   int32 (batch + 1,), from 0, not decreasing: where each sequence begins in q
        cu_seqlens_k   the same for k and v
        max_seqlen_q   at least the longest query length: rows beyond it are not computed
        max_seqlen_k   at least the longest key length
        block_table    paged keys and values, which these kernels lack: None

        The other arguments and what is returned: `FlashAttention`.
        """
        if block_table is not None:
            raise ValueError(f"block_table is {type(block_table).__name__}; paged keys are not supported, pass None")
        if cu_seqlens_q is None:
            raise TypeError("cu_seqlens_q is None; it must be an int32 torch.Tensor of shape (batch + 1,)")
        return self._run(
            q,
            k,
            v,
            causal,
            return_attn_probs,
            cu_seqlens_q=cu_seqlens_q,
            cu_seqlens_k=cu_seqlens_k,
            max_seqlen_q=max_seqlen_q,
            max_seqlen_k=max_seqlen_k,
            dropout_p=dropout_p,
            softmax_scale=softmax_scale,
            window_size=window_size,
            softcap=softcap,
            alibi_slopes=alibi_slopes,
            deterministic=deterministic,
        )

    def flash_attn_varlen_kvpacked_func(
        self,
        q: Tensor,
        kv: Tensor,
        cu_seqlens_q: Tensor,
        cu_seqlens_k: Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: Window = (-1, -1),
        softcap: float = 0.0,
        alibi_slopes: Tensor | None = None,
        deterministic: bool = False,
        return_attn_probs: bool = False,
    ) -> Result:
        """As `flash_attn_varlen_func`, with keys and values in one tensor: kv (total_k, 2, heads_kv, head_dim)."""
        k, v = self._keys_and_values(q, kv, PACKED, ("total_k", "2", "heads_kv", "head_dim"))
        return self.flash_attn_varlen_func(
            q,
            k,
            v,
            cu_seqlens_q,
            cu_seqlens_k,
            max_seqlen_q,
            max_seqlen_k,
            dropout_p,
            softmax_scale,
            causal,
            window_size,
            softcap,
            alibi_slopes,
            deterministic,
            return_attn_probs,
        )

    def flash_attn_varlen_qkvpacked_func(
        self,
        qkv: Tensor,
        cu_seqlens: Tensor,
        max_seqlen: int,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: Window = (-1, -1),
        softcap: float = 0.0,
        alibi_slopes: Tensor | None = None,
        deterministic: bool = False,
        return_attn_probs: bool = False,
    ) -> Result:
        """Self-attention over packed sequences, everything in one tensor: qkv (total, 3, heads, head_dim)."""
        self._check("qkv", qkv, ("total", "3", "heads", "head_dim"))
        check_offsets("cu_seqlens", cu_seqlens, "max_seqlen", max_seqlen, "qkv", qkv)
        q, k, v = qkv.unbind(-3)
        return self.flash_attn_varlen_func(
            q,
            k,
            v,
            cu_seqlens,
            cu_seqlens,
            max_seqlen,
            max_seqlen,
            dropout_p,
            softmax_scale,
            causal,
            window_size,
            softcap,
            alibi_slopes,
            deterministic,
            return_attn_probs,
        )

    def _keys_and_values(
        self, q: Tensor, kv: Tensor, q_dimensions: tuple[str, ...], kv_dimensions: tuple[str, ...]
    ) -> tuple[Tensor, Tensor]:
        """The two halves of `kv`, which fits `q`: checked here, where errors can call it what the caller does."""
        self._check("q", q, q_dimensions)
        self._check("kv", kv, kv_dimensions)
        k, v = kv.unbind(-3)
        check_agreement(q, k, v, "kv", "kv")
        return k, v

    def _check(self, name: str, tensor: object, dimensions: tuple[str, ...]) -> None:
        check_tensor(name, tensor, dimensions, self._attention.backend.max_head_dim)

    def _run(self, q: Tensor, k: Tensor, v: Tensor, causal: bool, return_attn_probs: bool, **given: Any) -> Result:
        check_flag("causal", causal)
        check_flag("return_attn_probs", return_attn_probs)
        out, lse, weights = self._attention(
            q,
            k,
            v,
            causal="bottom_right" if causal else None,
            return_weights=return_attn_probs,
            **given,
        )
        return (out, lse, weights) if return_attn_probs else out
