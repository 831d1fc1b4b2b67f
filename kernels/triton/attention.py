"""Our Triton kernels as differentiable functions of tensors.

Two functions, dense and packed, because their shapes differ; one autograd function behind both. Gradients flow through
lse as well as through out.
"""

import math
from typing import Any

import torch
from torch import Tensor

from fa2verify.kernels.problem import Causal
from fa2verify.kernels.triton.backward import backward_dkdv, backward_dq
from fa2verify.kernels.triton.call import MAX_HEAD_DIM, Call
from fa2verify.kernels.triton.forward import forward
from fa2verify.kernels.triton.preprocess import preprocess

_DTYPES = (torch.float16, torch.bfloat16)


def attention(
    q: Tensor, k: Tensor, v: Tensor, *, causal: Causal | None = None, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """Attention over equal lengths.

    q       fp16 or bf16 (batch, seqlen_q, heads_q, head_dim), head_dim 1 to 256
    k, v    the same dtype, (batch, seqlen_k, heads_kv, head_dim); heads_q a multiple of heads_kv
    causal  None, "top_left" (query i sees keys j <= i) or "bottom_right" (j <= i + seqlen_k - seqlen_q)
    scale   softmax scale, 1 / sqrt(head_dim) by default

    Strides are free but in the last dimension, which must be contiguous.
    Returns out, shaped like q, and lse, fp32 (batch, heads_q, seqlen_q), natural log. A query that sees no key has
    out 0, lse -inf and gradients 0. Raises ValueError, naming the argument and the rule it breaks.
    """
    _check_tensors(q, k, v, dimensions=4)
    if q.shape[0] != k.shape[0]:
        raise ValueError(f"q has batch {q.shape[0]} and k {k.shape[0]}; they must be equal")
    call = Call(
        batch=q.shape[0],
        seqlen_q=q.shape[1],
        seqlen_k=k.shape[1],
        heads_q=q.shape[2],
        heads_kv=k.shape[2],
        head_dim=q.shape[3],
        causal=_check_causal(causal),
        scale=_check_scale(scale, q),
    )
    return _Attention.apply(q, k, v, call)  # type: ignore[no-any-return,no-untyped-call]


def varlen_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    *,
    causal: Causal | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention over sequences of their own lengths, packed one after the other.

    q              fp16 or bf16 (total_q, heads_q, head_dim)
    k, v           the same dtype, (total_k, heads_kv, head_dim)
    cu_seqlens_q   int32 (batch + 1), contiguous, not decreasing, from 0 to at most total_q: where each sequence begins
    cu_seqlens_k   the same for k and v
    max_seqlen_q   at least the longest query length; rows of a longer sequence beyond it would not be computed
    max_seqlen_k   at least the longest key length

    Otherwise as `attention`. Returns out, shaped like q, and lse, fp32 (heads_q, total_q). Rows past the last sequence
    have out 0, lse -inf and gradients 0. The values of cu_seqlens are not checked: that would wait for the device.
    """
    _check_tensors(q, k, v, dimensions=3)
    for name, offsets in (("cu_seqlens_q", cu_seqlens_q), ("cu_seqlens_k", cu_seqlens_k)):
        if offsets.dtype != torch.int32 or offsets.ndim != 1 or offsets.numel() < 2 or not offsets.is_contiguous():
            raise ValueError(
                f"{name} must be contiguous int32 of shape (batch + 1,), not {offsets.dtype} {tuple(offsets.shape)} "
                f"with strides {offsets.stride()}"
            )
        if offsets.device != q.device:
            raise ValueError(f"{name} is on {offsets.device} and q on {q.device}; they must be on one device")
    if cu_seqlens_q.numel() != cu_seqlens_k.numel():
        raise ValueError(
            f"cu_seqlens_q has {cu_seqlens_q.numel()} entries and cu_seqlens_k {cu_seqlens_k.numel()}; "
            "both must have batch + 1"
        )
    for name, longest in (("max_seqlen_q", max_seqlen_q), ("max_seqlen_k", max_seqlen_k)):
        if longest < 0:
            raise ValueError(f"{name} is {longest}; a length is at least 0")
    call = Call(
        batch=cu_seqlens_q.numel() - 1,
        seqlen_q=max_seqlen_q,
        seqlen_k=max_seqlen_k,
        heads_q=q.shape[1],
        heads_kv=k.shape[1],
        head_dim=q.shape[2],
        causal=_check_causal(causal),
        scale=_check_scale(scale, q),
        cu_seqlens_q=cu_seqlens_q,
        cu_seqlens_k=cu_seqlens_k,
    )
    return _Attention.apply(q, k, v, call)  # type: ignore[no-any-return,no-untyped-call]


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, call: Call) -> tuple[Tensor, Tensor]:
        out = _output_like(q, call)
        rows = (call.heads_q, q.shape[0]) if call.varlen else (call.batch, call.heads_q, call.seqlen_q)
        lse = q.new_empty(rows, dtype=torch.float32)
        if call.varlen:
            lse.fill_(float("-inf"))
        forward(call, q, k, v, out, lse)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.call = call
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    def backward(
        ctx: Any, dout: Tensor | None, dlse: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        q, k, v, out, lse = ctx.saved_tensors
        call: Call = ctx.call
        if dout is None and dlse is None:
            return None, None, None, None
        if dout is None:
            dout = torch.zeros_like(out)
        elif not _is_row_contiguous(dout):
            dout = dout.contiguous()
        if dlse is not None:
            dlse = dlse.contiguous()
        delta, lse_log2 = torch.empty_like(lse), torch.empty_like(lse)
        preprocess(call, out, dout, lse, dlse, delta, lse_log2)
        needs_q, *needs_kv, _ = ctx.needs_input_grad
        dq = dk = dv = None
        if needs_q:
            dq = _output_like(q, call)
            backward_dq(call, q, k, v, dout, lse_log2, delta, dq)
        if any(needs_kv):
            dk, dv = _output_like(k, call), _output_like(v, call)
            backward_dkdv(call, q, k, v, dout, lse_log2, delta, dk, dv)
        return dq, dk, dv, None


def _output_like(tensor: Tensor, call: Call) -> Tensor:
    """Allocate a result. The kernels write every row of a sequence; only a packed batch may have others to clear."""
    return tensor.new_zeros(tensor.shape) if call.varlen else tensor.new_empty(tensor.shape)


def _is_row_contiguous(tensor: Tensor) -> bool:
    return tensor.stride(-1) == 1 or tensor.shape[-1] == 1


def _check_tensors(q: Tensor, k: Tensor, v: Tensor, dimensions: int) -> None:
    shape = "(batch, seqlen, heads, head_dim)" if dimensions == 4 else "(total, heads, head_dim)"
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        if tensor.ndim != dimensions:
            raise ValueError(f"{name} must be {shape}, not of shape {tuple(tensor.shape)}")
        if tensor.dtype not in _DTYPES:
            raise ValueError(f"{name} must be float16 or bfloat16, not {tensor.dtype}")
        if tensor.dtype != q.dtype or tensor.device != q.device:
            raise ValueError(
                f"{name} is {tensor.dtype} on {tensor.device} and q {q.dtype} on {q.device}; both must be equal"
            )
        if not _is_row_contiguous(tensor):
            raise ValueError(
                f"{name} must be contiguous in its last dimension, not of strides {tensor.stride()}; call .contiguous()"
            )
    if k.shape != v.shape:
        raise ValueError(f"k is {tuple(k.shape)} and v {tuple(v.shape)}; they must be equal")
    if q.shape[-1] != k.shape[-1]:
        raise ValueError(f"q has head_dim {q.shape[-1]} and k {k.shape[-1]}; they must be equal")
    if not 1 <= q.shape[-1] <= MAX_HEAD_DIM:
        raise ValueError(f"head_dim is {q.shape[-1]}; it must be 1 to {MAX_HEAD_DIM}")
    heads_q, heads_kv = q.shape[-2], k.shape[-2]
    if heads_q < 1 or heads_kv < 1 or heads_q % heads_kv:
        raise ValueError(f"q has {heads_q} heads and k {heads_kv}; q's must be a multiple of k's")


def _check_causal(causal: Causal | None) -> Causal | None:
    if causal not in (None, "top_left", "bottom_right"):
        raise ValueError(f"causal is {causal!r}; it must be None, 'top_left' or 'bottom_right'")
    return causal


def _check_scale(scale: float | None, q: Tensor) -> float:
    if scale is None:
        return 1 / math.sqrt(q.shape[-1])
    if not math.isfinite(scale):
        raise ValueError(f"scale is {scale}; it must be finite")
    return float(scale)
