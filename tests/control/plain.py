"""A plain PyTorch function with flash_attn_func's signature, and the same function with one fault each.

What a user would point `--kernel` at, without an adapter. The right one must pass; each faulty one must fail.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    return_attn_probs: bool = False,
    *,
    diagonal: Callable[[int, int], int] = lambda seqlen_q, seqlen_k: seqlen_k - seqlen_q,
    hidden_keys: int = 0,
) -> Tensor | tuple[Tensor, Tensor, None]:
    assert dropout_p == 0.0
    seqlen_q, seqlen_k = q.shape[1], k.shape[1]
    group = q.shape[2] // k.shape[2]
    scale = 1 / math.sqrt(q.shape[-1]) if softmax_scale is None else softmax_scale
    keys, values = (tensor.repeat_interleave(group, dim=2) for tensor in (k, v))
    scores = torch.einsum("bihd,bjhd->bhij", q, keys).float() * scale
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    position = torch.arange(seqlen_k, device=q.device) - torch.arange(seqlen_q, device=q.device)[:, None]
    position = position - diagonal(seqlen_q, seqlen_k)
    left, right = window_size
    right = min(right, 0) if causal and right >= 0 else 0 if causal else right
    seen = torch.ones_like(position, dtype=torch.bool)
    if left >= 0:
        seen &= position >= -left
    if right >= 0:
        seen &= position <= right
    seen[:, max(seqlen_k - hidden_keys, 0) :] = False
    scores = scores.masked_fill(~seen, float("-inf"))
    lse = torch.logsumexp(scores, dim=-1)
    weights = torch.exp(scores - lse.masked_fill(lse == float("-inf"), 0.0)[..., None])
    out = torch.einsum("bhij,bjhd->bihd", weights.to(q.dtype), values)
    return (out, lse, None) if return_attn_probs else out


def alignment_swapped(
    q: Tensor, k: Tensor, v: Tensor, softmax_scale: float | None = None, causal: bool = False
) -> Tensor:
    return attention(q, k, v, softmax_scale=softmax_scale, causal=causal, diagonal=lambda _q, _k: 0)  # type: ignore[return-value]


def last_key_dropped(
    q: Tensor, k: Tensor, v: Tensor, softmax_scale: float | None = None, causal: bool = False
) -> Tensor:
    return attention(q, k, v, softmax_scale=softmax_scale, causal=causal, hidden_keys=1)  # type: ignore[return-value]


def scale_off(q: Tensor, k: Tensor, v: Tensor, softmax_scale: float | None = None, causal: bool = False) -> Tensor:
    """The default scale is that of head_dim 64, whatever the head_dim (triton 621)."""
    scale = 1 / 8 if softmax_scale is None else softmax_scale
    return attention(q, k, v, softmax_scale=scale, causal=causal)  # type: ignore[return-value]


def lse_doubled(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    softmax_scale: float | None = None,
    causal: bool = False,
    return_attn_probs: bool = False,
) -> Tensor | tuple[Tensor, Tensor, None]:
    out, lse, _ = attention(q, k, v, softmax_scale=softmax_scale, causal=causal, return_attn_probs=True)
    return (out, 2 * lse, None) if return_attn_probs else out


def dk_zeroed(q: Tensor, k: Tensor, v: Tensor, softmax_scale: float | None = None, causal: bool = False) -> Tensor:
    return attention(q, _no_gradient(k), v, softmax_scale=softmax_scale, causal=causal)  # type: ignore[return-value]


def last_tile_unwritten(
    q: Tensor, k: Tensor, v: Tensor, softmax_scale: float | None = None, causal: bool = False
) -> Tensor:
    """Rows past the last whole tile of 16 queries are never written: they hold what the memory held."""
    out = attention(q, k, v, softmax_scale=softmax_scale, causal=causal)
    assert isinstance(out, Tensor)
    whole = out.shape[1] // 16 * 16
    return torch.cat([out[:, :whole], torch.full_like(out[:, whole:], 0.125)], dim=1)


def _no_gradient(tensor: Tensor) -> Tensor:
    return tensor.detach() + 0 * tensor


FAULTY = (alignment_swapped, last_key_dropped, scale_off, lse_doubled, dk_zeroed, last_tile_unwritten)
