"""Our CUDA kernels as functions of tensors: forward, backward, and both as one differentiable function.

Tensors on a GPU go to the kernels themselves; tensors on the CPU go to the emulator, which runs the same source.
Shapes, dense or varlen, are those of `fa2verify.kernels.tensors.Tensors`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fa2verify.kernels.cuda import emulator, gpu
from fa2verify.kernels.cuda.call import Options, Shape, make_call
from fa2verify.kernels.cuda.configuration import MAX_HEAD_DIM, Feature, Name, Variant, padded_head_dim, relevant
from fa2verify.kernels.problem import DType

_MAX_BLOCKS = 2**31 - 1
_DTYPES: dict[torch.dtype, DType] = {torch.float16: "float16", torch.bfloat16: "bfloat16"}


def attention(q: Tensor, k: Tensor, v: Tensor, options: Options) -> tuple[Tensor, Tensor]:
    """Attention, differentiable in q, k and v, through out and through lse.

    q     fp16 or bf16 (batch, seqlen_q, heads_q, head_dim), varlen (total_q, heads_q, head_dim); head_dim 1 to 256
    k, v  the same dtype, (batch, seqlen_k, heads_kv, head_dim), varlen (total_k, heads_kv, head_dim)

    Strides are free but in the last dimension, which must be contiguous. Returns out, shaped like q, and lse, fp32
    (batch, heads_q, seqlen_q), varlen (heads_q, total_q), natural log. A query that sees no key, and a row past the
    last sequence, has out 0, lse -inf and gradients 0. The backward gives the same bits in every run.

    Raises ValueError, naming the argument and the rule it breaks.
    """
    _check_tensors(q, k, v, options)
    return _Attention.apply(q, k, v, options)  # type: ignore[no-any-return,no-untyped-call]


def forward(q: Tensor, k: Tensor, v: Tensor, options: Options) -> tuple[Tensor, Tensor]:
    """Out and lse as `attention` gives them, of arguments that it has checked."""
    shape = Shape.of(options, q, k)
    out = _result(q, options)
    rows = (shape.heads_q, q.shape[0]) if options.varlen else (shape.batch, shape.heads_q, shape.seqlen_q)
    lse = _unwritten(q, rows, torch.float32)
    if options.varlen:
        lse.fill_(float("-inf"))
    _launch("forward", options, shape, {"q": q, "k": k, "v": v, "out": out, "lse": lse})
    return out, lse


def backward(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, dout: Tensor, dlse: Tensor | None, options: Options
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v for those of out and, if it is not None, of lse (fp32, contiguous)."""
    shape = Shape.of(options, q, k)
    delta = _unwritten(lse, lse.shape, lse.dtype)
    dq, dk, dv = _result(q, options), _result(k, options), _result(v, options)
    rows = {"lse": lse, "delta": delta}
    _launch("preprocess", options, shape, {"out": out, "dout": dout, "delta": delta, "dlse": dlse})
    _launch("backward_dkdv", options, shape, {"q": q, "k": k, "v": v, "dout": dout, "dk": dk, "dv": dv, **rows})
    _launch("backward_dq", options, shape, {"q": q, "k": k, "v": v, "dout": dout, "dq": dq, **rows})
    return dq, dk, dv


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, options: Options) -> tuple[Tensor, Tensor]:
        out, lse = forward(q, k, v, options)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.options = options
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    def backward(
        ctx: Any, dout: Tensor | None, dlse: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        q, k, v, out, lse = ctx.saved_tensors
        if dout is None and dlse is None:
            return None, None, None, None
        if dout is None:
            dout = torch.zeros_like(out)
        elif not _is_row_contiguous(dout):
            dout = dout.contiguous()
        dlse = None if dlse is None else dlse.contiguous()
        return *backward(q, k, v, out, lse, dout, dlse, ctx.options), None


def _launch(name: Name, options: Options, shape: Shape, tensors: dict[str, Tensor | None]) -> None:
    call = make_call(options, shape, tensors)
    device = next(tensor.device for tensor in tensors.values() if tensor is not None)
    dtype = next(_DTYPES[tensor.dtype] for tensor in tensors.values() if tensor is not None and tensor.dtype in _DTYPES)
    emulated = device.type == "cpu"
    features = Feature.ANY if emulated else relevant(name, Feature(call.features))
    variant = Variant(name, dtype, padded_head_dim(shape.head_dim), features)
    length, heads = (shape.seqlen_k, shape.heads_kv) if name == "backward_dkdv" else (shape.seqlen_q, shape.heads_q)
    call.blocks = -(-length // variant.rows)
    blocks = call.blocks * heads * shape.batch * variant.parts
    if blocks > _MAX_BLOCKS:
        raise ValueError(f"{name} would take {blocks} blocks, more than the {_MAX_BLOCKS} of a grid; split the batch")
    if not emulated:
        gpu.launch(variant, blocks, call, device)
        return
    others = {
        "cu_seqlens_q": options.cu_seqlens_q,
        "cu_seqlens_k": options.cu_seqlens_k,
        "alibi_slopes": options.alibi_slopes,
    }
    known = {name: tensor for name, tensor in (tensors | others).items() if tensor is not None}
    emulator.launch(variant, blocks, call, known)


def _result(tensor: Tensor, options: Options) -> Tensor:
    """Allocate a result. The kernels write every row of a sequence; only a packed batch may have others to clear."""
    return tensor.new_zeros(tensor.shape) if options.varlen else _unwritten(tensor, tensor.shape, tensor.dtype)


def _unwritten(tensor: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Allocate what a kernel writes; under the emulator it begins as NaN, so that an element nobody writes shows."""
    if tensor.device.type == "cpu":
        return tensor.new_full(shape, float("nan"), dtype=dtype)
    return tensor.new_empty(shape, dtype=dtype)


def _is_row_contiguous(tensor: Tensor) -> bool:
    return tensor.stride(-1) == 1 or tensor.shape[-1] == 1


def _check_tensors(q: Tensor, k: Tensor, v: Tensor, options: Options) -> None:
    dimensions, shape = (3, "(total, heads, head_dim)") if options.varlen else (4, "(batch, seqlen, heads, head_dim)")
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
    if not options.varlen and q.shape[0] != k.shape[0]:
        raise ValueError(f"q has batch {q.shape[0]} and k {k.shape[0]}; they must be equal")
    batch = q.shape[0] if options.cu_seqlens_q is None else options.cu_seqlens_q.numel() - 1
    for name, offsets in (("cu_seqlens_q", options.cu_seqlens_q), ("cu_seqlens_k", options.cu_seqlens_k)):
        if offsets is not None:
            _check_beside(name, offsets, q, torch.int32, ((batch + 1,),))
    if batch < 1 and options.varlen:
        raise ValueError("cu_seqlens_q is empty; it must have batch + 1 entries")
    if options.alibi_slopes is not None:
        _check_beside("alibi_slopes", options.alibi_slopes, q, torch.float32, ((heads_q,), (batch, heads_q)))


def _check_beside(
    name: str, tensor: Tensor, q: Tensor, dtype: torch.dtype, shapes: tuple[tuple[int, ...], ...]
) -> None:
    if tensor.dtype != dtype or tuple(tensor.shape) not in shapes or not tensor.is_contiguous():
        wanted = " or ".join(map(str, shapes))
        raise ValueError(
            f"{name} must be contiguous {dtype} of shape {wanted}, not {tensor.dtype} of shape {tuple(tensor.shape)} "
            f"with strides {tensor.stride()}"
        )
    if tensor.device != q.device:
        raise ValueError(f"{name} is on {tensor.device} and q on {q.device}; they must be on one device")
