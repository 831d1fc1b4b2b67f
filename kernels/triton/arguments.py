"""A call as arguments of our Triton kernels, and what of it a kernel is compiled for.

Only a few facts become part of a compiled kernel: dtype, which sides of the mask are bounded, which of softcap, ALiBi
and dropout are asked for, varlen or not, the sign of the scale, head_dim's padded size, and whether 16-byte accesses
are legal. Lengths, heads, strides, windows and the alignment of the mask are run-time values, so that a run over
thousands of drawn problems compiles a few hundred kernels at most.
"""

import math

from fa2verify.kernels.interface.call import Call
from fa2verify.kernels.interface.signature import Layout
from fa2verify.kernels.triton.specialisation import ROWS, VIEWS

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


def arguments(call: Call, layouts: tuple[Layout, ...]) -> dict[str, object]:
    """All of a kernel's arguments that are no tensors, by name.

    layouts  of the launch's tensors and the call's own
    """
    varlen = any(name == "cu_seqlens_q" for name, *_ in layouts)
    block_d = padded_block_d(call.head_dim)
    views = tuple(layout for layout in layouts if layout[0] in VIEWS)
    aligned = call.head_dim % _CHUNK == 0 and all(_is_aligned(layout) for layout in views)
    left, right = call.band
    given: dict[str, object] = {
        "alibi_sequence_stride": 0,
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
    for name, _, strides, _ in views:
        *sequence, row, head, _ = strides
        given[f"{name}_sequence_stride"] = sequence[0] if sequence else row
        given[f"{name}_row_stride"] = row
        given[f"{name}_head_stride"] = head
    for name, shape, strides, _ in layouts:
        if name in ROWS:
            # Contiguous (batch, heads_q, seqlen_q), or (heads_q, total_q).
            given["lse_sequence_stride"] = 1 if varlen else strides[0]
            given["lse_head_stride"] = strides[0 if varlen else 1]
        elif name == "alibi_slopes" and len(shape) == 2:
            given["alibi_sequence_stride"] = strides[0]
    return given


def _is_aligned(layout: Layout) -> bool:
    """Whether every row of a tensor begins at a multiple of 16 bytes."""
    _, shape, strides, begins_aligned = layout
    steps = (stride for size, stride in zip(shape[:-1], strides[:-1], strict=True) if size > 1)
    return begins_aligned and all(step % _CHUNK == 0 for step in steps)


def _as_int32(word: int) -> int:
    """The int32 with the bits of a uint32: Triton types an argument by its value, and above 2^31 it is another type."""
    return word - 2**32 if word >= 2**31 else word
