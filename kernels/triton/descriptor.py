"""Tensor descriptors: addresses computed by the TMA unit instead of by threads.

A tile's addresses take registers that the backward at head_dim 128 does not have. They serve dense calls, where a
descriptor knows each sequence's end; in a packed batch the rows after a sequence are the next one's.
"""

import math

import torch
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from fa2verify.kernels.interface.signature import Layout
from fa2verify.kernels.triton.configuration import Configuration, has_tma

_STRIDE_LIMIT = 2**40  # bytes; CUDA driver API, cuTensorMapEncodeTiled
_ELEMENT_BYTES = 2


def use_descriptors(
    config: Configuration, arguments: dict[str, object], loaded: tuple[Layout, ...], device: torch.device
) -> bool:
    """Whether the configuration asks for descriptors and the tensors that they would serve can have them.

    TMA takes strides that are positive multiples of 16 bytes; `arguments` are the launch's.
    """
    return (
        config.descriptors
        and not arguments["varlen"]
        and bool(arguments["aligned"])
        and all(_describable(layout) for layout in loaded)
        and (device.type == "cpu" or has_tma(device))
    )


def describe(tensor: Tensor, block: int, block_d: int) -> TensorDescriptor:
    """Describe (batch, seqlen, heads, head_dim) as (batch, heads, seqlen, head_dim) in boxes (1, 1, block, block_d)."""
    batch, seqlen, heads, head_dim = tensor.shape
    sequence, row, head, element = tensor.stride()
    shape, strides = [batch, heads, seqlen, head_dim], [sequence, head, row, element]
    return TensorDescriptor(tensor, shape, strides, [1, 1, block, block_d])


def _describable(layout: Layout) -> bool:
    _, shape, strides, _ = layout
    # Strides of dimensions of one element count too: the descriptor holds them whether or not they are ever used.
    return (
        math.prod(shape) > 0
        and all(0 < stride * _ELEMENT_BYTES < _STRIDE_LIMIT for stride in strides)
        and all(stride * _ELEMENT_BYTES % 16 == 0 for stride in strides[:-1])
    )
