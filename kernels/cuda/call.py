"""An attention call as the kernels see it: a C structure, field for field the one in call.cuh.

Tensors that hold values of the call (offsets, slopes, the dropout seed) go in as pointers: to read them here would wait
for the device, and a captured CUDA graph would keep what they held at capture.
"""

import ctypes
import math

import torch

from fa2verify.kernels.cuda.configuration import MAX_SEQLEN, Feature
from fa2verify.kernels.interface.call import Call
from fa2verify.kernels.interface.signature import Layout

_LOG2E = math.log2(math.e)
_CHUNK = 8  # elements of 16 bytes
# Stands for a quotient beyond fp32, whose product with a score of 0 would be NaN.
_HUGE = 2.0**125


class _View(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("sequence_stride", ctypes.c_int64),
        ("row_stride", ctypes.c_int64),
        ("head_stride", ctypes.c_int64),
    )


VIEWS = ("q", "k", "v", "out", "dout", "dq", "dk", "dv", "weights")
ROWS = ("lse", "delta", "dlse")


class CallStructure(ctypes.Structure):
    """`Call` of call.cuh."""

    _fields_ = (
        *((name, _View) for name in VIEWS),
        *((name, ctypes.c_void_p) for name in ROWS),
        ("dq_sum", ctypes.c_void_p),
        ("dq_sum_tiles", ctypes.c_int64),
        ("lse_sequence_stride", ctypes.c_int64),
        ("lse_head_stride", ctypes.c_int64),
        ("cu_seqlens_q", ctypes.c_void_p),
        ("cu_seqlens_k", ctypes.c_void_p),
        ("alibi_slopes", ctypes.c_void_p),
        ("alibi_sequence_stride", ctypes.c_int64),
        ("dropout_seed", ctypes.c_void_p),
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
    )


# A structure as whole words, which is the fastest way to set addresses; all of them are words of their own.
Words = ctypes.c_uint64 * (ctypes.sizeof(CallStructure) // 8)


def word_of(name: str) -> int:
    """The index in `Words` of the address of the tensor `name`."""
    offset = getattr(CallStructure, name).offset
    assert offset % 8 == 0, f"{name} is no word of its own"
    return int(offset) // 8


def make_structure(call: Call, layouts: tuple[Layout, ...]) -> CallStructure:
    """The structure for a launch, all but the addresses of its tensors; `blocks` is left to the launch.

    layouts  of the launch's tensors and the call's own, by field name

    Raises ValueError for a length that 32-bit indices cannot hold.
    """
    for name, length in (("q", call.seqlen_q), ("k", call.seqlen_k)):
        if length > MAX_SEQLEN:
            raise ValueError(f"{name} has a length of {length}; the CUDA kernels take at most {MAX_SEQLEN}")
    structure = CallStructure()
    given = {name for name, *_ in layouts}
    varlen = "cu_seqlens_q" in given
    narrow = False
    for layout in layouts:
        name, shape, strides, _ = layout
        if name in ROWS:
            structure.lse_sequence_stride = 1 if varlen else strides[0]
            structure.lse_head_stride = strides[0 if varlen else 1]
        elif name == "dq_sum":
            structure.dq_sum_tiles = shape[1]
        elif name == "weights":
            sequence, head, row, _ = strides
            structure.weights = _View(None, sequence, row, head)
        elif name == "alibi_slopes":
            structure.alibi_sequence_stride = strides[0] if len(shape) == 2 else 0
        elif name in VIEWS:
            *sequences, row, head, _ = strides
            setattr(structure, name, _View(None, sequences[0] if sequences else row, row, head))
            narrow = narrow or not _is_aligned(layout)
    structure.seqlen_q, structure.seqlen_k = call.seqlen_q, call.seqlen_k
    structure.heads_q, structure.heads_kv, structure.head_dim = call.heads_q, call.heads_kv, call.head_dim
    structure.top_left = call.causal == "top_left"
    unbounded = call.seqlen_q + call.seqlen_k
    structure.left, structure.right = (unbounded if side is None else side for side in call.band)
    structure.scale, structure.scale_log2 = call.scale, call.scale * _LOG2E
    if call.softcap:
        structure.scale_over_cap = max(-_HUGE, min(call.scale / call.softcap, _HUGE))
        structure.cap_log2 = call.softcap * _LOG2E
    structure.keep_scale = 1 / (1 - call.dropout)
    structure.drop_below = int(call.dropout * 2**32)
    structure.features = int(_features(call, "alibi_slopes" in given, narrow))
    return structure


def _features(call: Call, alibi: bool, narrow: bool) -> Feature:
    features = Feature(0)
    if call.softcap:
        features |= Feature.SOFTCAP
    if alibi:
        features |= Feature.ALIBI
    if call.dropout:
        features |= Feature.DROPOUT
    if narrow:
        features |= Feature.NARROW
    # Also a positive scale that is subnormal in fp32, where a factor may become 0 and 0 times -inf NaN. A softcap and
    # ALiBi take the same path by themselves.
    if not features & (Feature.SOFTCAP | Feature.ALIBI) and call.scale * _LOG2E < torch.finfo(torch.float32).tiny:
        features |= Feature.PRESCALE
    return features


def _is_aligned(layout: Layout) -> bool:
    """Whether every row of a tensor begins at a multiple of 16 bytes and is as long as one."""
    _, shape, strides, begins_aligned = layout
    steps = [stride for size, stride in zip(shape[:-1], strides[:-1], strict=True) if size > 1]
    return begins_aligned and all(length % _CHUNK == 0 for length in (shape[-1], *steps))
