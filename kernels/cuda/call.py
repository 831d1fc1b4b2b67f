"""An attention call as the kernels see it: a C structure, field for field the one in call.cuh."""

import ctypes
import math
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from fa2verify.kernels.cuda.configuration import MAX_SEQLEN, Feature
from fa2verify.kernels.problem import Causal

_LOG2E = math.log2(math.e)
_CHUNK = 8  # elements of 16 bytes


@dataclass(frozen=True, slots=True)
class Options:
    """What an attention call asks for beyond its tensors; the words are those of `fa2verify.kernels.problem.Problem`.

    causal         None, "top_left" (query i sees keys j <= i) or "bottom_right" (j <= i + seqlen_k - seqlen_q)
    window         (left, right) keys around the diagonal, both ends inclusive, -1 meaning unbounded
    scale          softmax scale; None means 1 / sqrt(head_dim)
    softcap        c in c * tanh(s / c); 0 means none
    alibi_slopes   fp32 (heads_q) or (batch, heads_q), contiguous; None means none
    dropout        probability of dropping an attention weight, in [0, 1)
    dropout_seed   64-bit seed of the mask, see `fa2verify.kernels.dropout`
    cu_seqlens_q   varlen: int32 (batch + 1), contiguous; None means dense
    cu_seqlens_k   the same for k and v
    max_seqlen_q   varlen: at least the longest query length
    max_seqlen_k   varlen: at least the longest key length

    Raises ValueError naming the field, its value and the rule.
    """

    causal: Causal | None = None
    window: tuple[int, int] = (-1, -1)
    scale: float | None = None
    softcap: float = 0.0
    alibi_slopes: Tensor | None = None
    dropout: float = 0.0
    dropout_seed: int = 0
    cu_seqlens_q: Tensor | None = None
    cu_seqlens_k: Tensor | None = None
    max_seqlen_q: int = 0
    max_seqlen_k: int = 0

    def __post_init__(self) -> None:
        if self.causal not in (None, *get_args(Causal)):
            raise ValueError(f"causal is {self.causal!r}; it must be None, 'top_left' or 'bottom_right'")
        if min(self.window) < -1:
            raise ValueError(f"window is {self.window}; each side is -1 (unbounded) or at least 0")
        if self.scale is not None and not math.isfinite(self.scale):
            raise ValueError(f"scale is {self.scale}; it must be finite")
        if not (self.softcap >= 0 and math.isfinite(self.softcap)):
            raise ValueError(f"softcap is {self.softcap}; it must be 0 (none) or positive and finite")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; it must be in [0, 1)")
        if not 0 <= self.dropout_seed < 2**64:
            raise ValueError(f"dropout_seed is {self.dropout_seed}; it must be in [0, 2^64)")
        if (self.cu_seqlens_q is None) != (self.cu_seqlens_k is None):
            raise ValueError("cu_seqlens_q and cu_seqlens_k must both be given or both be None")

    @property
    def varlen(self) -> bool:
        """Whether sequences are packed one after the other."""
        return self.cu_seqlens_q is not None


class _View(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("sequence_stride", ctypes.c_int64),
        ("row_stride", ctypes.c_int64),
        ("head_stride", ctypes.c_int64),
    )


VIEWS = ("q", "k", "v", "out", "dout", "dq", "dk", "dv")
ROWS = ("lse", "delta", "dlse")


class Call(ctypes.Structure):
    """`Call` of call.cuh."""

    _fields_ = (
        *((name, _View) for name in VIEWS),
        *((name, ctypes.c_void_p) for name in ROWS),
        ("lse_sequence_stride", ctypes.c_int64),
        ("lse_head_stride", ctypes.c_int64),
        ("cu_seqlens_q", ctypes.c_void_p),
        ("cu_seqlens_k", ctypes.c_void_p),
        ("alibi_slopes", ctypes.c_void_p),
        ("alibi_sequence_stride", ctypes.c_int64),
        ("blocks", ctypes.c_int),
        ("seqlen_q", ctypes.c_int),
        ("seqlen_k", ctypes.c_int),
        ("heads_q", ctypes.c_int),
        ("heads_kv", ctypes.c_int),
        ("head_dim", ctypes.c_int),
        ("top_left", ctypes.c_int),
        ("left", ctypes.c_int),
        ("right", ctypes.c_int),
        ("features", ctypes.c_uint),
        ("scale", ctypes.c_float),
        ("scale_log2", ctypes.c_float),
        ("scale_over_cap", ctypes.c_float),
        ("cap_log2", ctypes.c_float),
        ("keep_scale", ctypes.c_float),
        ("drop_below", ctypes.c_uint32),
        ("seed_low", ctypes.c_uint32),
        ("seed_high", ctypes.c_uint32),
    )


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a call.

    seqlen_q, seqlen_k  lengths, varlen: bounds on the longest
    """

    batch: int
    seqlen_q: int
    seqlen_k: int
    heads_q: int
    heads_kv: int
    head_dim: int

    @classmethod
    def of(cls, options: Options, q: Tensor, k: Tensor) -> "Shape":
        """The sizes of a call on `q` and `k`. Raises ValueError for a length that 32-bit indices cannot hold."""
        if options.cu_seqlens_q is None:
            batch, seqlen_q, seqlen_k = q.shape[0], q.shape[1], k.shape[1]
        else:
            batch, seqlen_q, seqlen_k = options.cu_seqlens_q.numel() - 1, options.max_seqlen_q, options.max_seqlen_k
        for name, length in (("seqlen_q", seqlen_q), ("seqlen_k", seqlen_k)):
            if not 0 <= length <= MAX_SEQLEN:
                raise ValueError(f"{name} is {length}; it must be 0 to {MAX_SEQLEN}")
        return cls(batch, seqlen_q, seqlen_k, q.shape[-2], k.shape[-2], q.shape[-1])


def make_call(options: Options, shape: Shape, tensors: dict[str, Tensor | None]) -> Call:
    """The structure for a launch on `tensors`, by field name; `blocks` is left to the launch."""
    call = Call()
    narrow = False
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if name in ROWS:
            setattr(call, name, tensor.data_ptr())
            call.lse_sequence_stride = 1 if options.varlen else tensor.stride(0)
            call.lse_head_stride = tensor.stride(0 if options.varlen else 1)
            continue
        *sequence, row, head, _ = tensor.stride()
        setattr(call, name, _View(tensor.data_ptr(), sequence[0] if sequence else row, row, head))
        narrow = narrow or not _is_aligned(tensor)
    if options.cu_seqlens_q is not None and options.cu_seqlens_k is not None:
        call.cu_seqlens_q = options.cu_seqlens_q.data_ptr()
        call.cu_seqlens_k = options.cu_seqlens_k.data_ptr()
    if options.alibi_slopes is not None:
        call.alibi_slopes = options.alibi_slopes.data_ptr()
        call.alibi_sequence_stride = options.alibi_slopes.stride(0) if options.alibi_slopes.ndim == 2 else 0
    call.seqlen_q, call.seqlen_k = shape.seqlen_q, shape.seqlen_k
    call.heads_q, call.heads_kv, call.head_dim = shape.heads_q, shape.heads_kv, shape.head_dim
    call.top_left = options.causal == "top_left"
    unbounded = shape.seqlen_q + shape.seqlen_k
    left, right = (unbounded if side < 0 else min(side, unbounded) for side in options.window)
    call.left, call.right = left, 0 if options.causal is not None else right
    scale = 1 / math.sqrt(shape.head_dim) if options.scale is None else options.scale
    call.scale, call.scale_log2 = scale, scale * _LOG2E
    if options.softcap:
        call.scale_over_cap, call.cap_log2 = scale / options.softcap, options.softcap * _LOG2E
    call.keep_scale = 1 / (1 - options.dropout)
    call.drop_below = int(options.dropout * 2**32)
    call.seed_low, call.seed_high = options.dropout_seed & 0xFFFFFFFF, options.dropout_seed >> 32
    call.features = int(_features(options, scale, narrow))
    return call


def _features(options: Options, scale: float, narrow: bool) -> Feature:
    features = Feature(0)
    if options.softcap:
        features |= Feature.SOFTCAP
    if options.alibi_slopes is not None:
        features |= Feature.ALIBI
    if options.dropout:
        features |= Feature.DROPOUT
    if narrow:
        features |= Feature.NARROW
    # Also a positive scale that is subnormal in fp32, where a factor may become 0 and 0 times -inf NaN. A softcap and
    # ALiBi take the same path by themselves.
    if not features & (Feature.SOFTCAP | Feature.ALIBI) and scale * _LOG2E < torch.finfo(torch.float32).tiny:
        features |= Feature.PRESCALE
    return features


def _is_aligned(tensor: Tensor) -> bool:
    """Whether every row of `tensor` begins at a multiple of 16 bytes and is as long as one."""
    strides = [stride for size, stride in zip(tensor.shape[:-1], tensor.stride()[:-1], strict=True) if size > 1]
    return tensor.data_ptr() % 16 == 0 and all(length % _CHUNK == 0 for length in (tensor.shape[-1], *strides))
