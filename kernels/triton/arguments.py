"""A call as arguments of our Triton kernels, and what of it a kernel is compiled for.

Only a few facts become part of a compiled kernel: dtype, which sides of the mask are bounded, which of softcap, ALiBi
and dropout are asked for, varlen or not, the sign of the scale, head_dim's padded size, and whether 16-byte accesses
are legal. Lengths, heads, strides, windows and the alignment of the mask are run-time values, so that a run over
thousands of drawn problems compiles a few hundred kernels at most.
"""

import math
from dataclasses import replace
from functools import lru_cache

from torch import Tensor

from fa2verify.kernels.interface.call import Call

MAX_HEAD_DIM = 256
_CHUNK = 8  # elements of 16 bits in the 16 bytes of the widest access
_LOG2E = math.log2(math.e)
# Stands for a scale of 0, whose product with a masked score of -inf would be NaN. Scores times it vanish beside 1.
_TINY = 2.0**-126
# Stands for a quotient beyond fp32, whose product with a score of 0 would be NaN.
_HUGE = 2.0**125


def padded_block_d(head_dim: int) -> int:
    """head_dim padded to a power of two, at least the 16 that a matrix instruction takes."""
    return max(16, 1 << (head_dim - 1).bit_length())


def arguments(call: Call, tensors: dict[str, Tensor]) -> dict[str, object]:
    """Kernel arguments by name: the call's, and the strides of `tensors`, (..., heads, head_dim) each."""
    slopes = call.alibi_slopes
    plain = call
    if call.varlen or slopes is not None or call.dropout_seed is not None:
        plain = replace(call, cu_seqlens_q=None, cu_seqlens_k=None, alibi_slopes=None, dropout_seed=None)
    layouts = ((name, tuple(x.shape), x.stride(), _begins_aligned(x)) for name, x in tensors.items())
    numbers = _numbers(plain, call.varlen, tuple(layouts))
    return numbers | {
        "cu_seqlens_q": call.cu_seqlens_q,
        "cu_seqlens_k": call.cu_seqlens_k,
        "alibi_slopes": slopes,
        "alibi_sequence_stride": slopes.stride(0) if slopes is not None and slopes.ndim == 2 else 0,
        "dropout_seed": call.dropout_seed if call.dropout else None,
    }


_Layout = tuple[str, tuple[int, ...], tuple[int, ...], bool]  # name, shape, strides, first element at 16 bytes


@lru_cache(maxsize=4096)
def _numbers(call: Call, varlen: bool, layouts: tuple[_Layout, ...]) -> dict[str, object]:
    """All arguments that are no tensors. Cached: to compute them costs a call more host time than to launch it."""
    block_d = padded_block_d(call.head_dim)
    aligned = call.head_dim % _CHUNK == 0 and all(_is_aligned(layout) for layout in layouts)
    left, right = call.band
    given: dict[str, object] = {
        "dropout_threshold": _as_int32(int(call.dropout * 2**32)),
        "dropout_rescale": 1 / (1 - call.dropout),
        "seqlen_q": call.seqlen_q,
        "seqlen_k": call.seqlen_k,
        "heads_q": call.heads_q,
        "heads_kv": call.heads_kv,
        "head_dim": call.head_dim,
        "bottom_right": int(call.causal != "top_left"),
        "window_left": left,
        "window_right": right,
        "scale": call.scale,
        "scale_log2": max((call.softcap or abs(call.scale)) * _LOG2E, _TINY),
        "cap_scale": min(abs(call.scale) / call.softcap, _HUGE) if call.softcap else None,
        "negative": call.scale < 0,
        "varlen": varlen,
        "aligned": aligned,
        "full": aligned and call.head_dim == block_d,
        "block_d": block_d,
    }
    for name, _, strides, _ in layouts:
        *sequence, row, head, _ = strides
        given[f"{name}_sequence_stride"] = sequence[0] if sequence else row
        given[f"{name}_row_stride"] = row
        given[f"{name}_head_stride"] = head
    return given


def lse_strides(call: Call, lse: Tensor) -> dict[str, object]:
    """Strides of a contiguous (batch, heads_q, seqlen_q) or (heads_q, total_q) tensor of one number a row."""
    return {
        "lse_sequence_stride": 1 if call.varlen else lse.stride(0),
        "lse_head_stride": lse.stride(0 if call.varlen else 1),
    }


def _begins_aligned(tensor: Tensor) -> bool:
    return tensor.data_ptr() % 16 == 0


def _is_aligned(layout: _Layout) -> bool:
    """Whether every row of a tensor begins at a multiple of 16 bytes."""
    _, shape, strides, begins_aligned = layout
    steps = (stride for size, stride in zip(shape[:-1], strides[:-1], strict=True) if size > 1)
    return begins_aligned and all(step % _CHUNK == 0 for step in steps)


def _as_int32(word: int) -> int:
    """The int32 with the bits of a uint32: Triton types an argument by its value, and above 2^31 it is another type."""
    return word - 2**32 if word >= 2**31 else word
