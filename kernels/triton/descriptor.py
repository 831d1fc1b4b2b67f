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


def describe(layout: Layout, block: int, block_d: int) -> TensorDescriptor:
    """Describe (batch, seqlen, heads, head_dim) as (batch, heads, seqlen, head_dim) in boxes (1, 1, block, block_d).

    Of no tensor yet: `described` puts one there.
    """
    _, (batch, seqlen, heads, head_dim), (sequence, row, head, element), _ = layout
    shape, strides = [batch, heads, seqlen, head_dim], [sequence, head, row, element]
    return TensorDescriptor(torch.empty(0, dtype=torch.float16), shape, strides, [1, 1, block, block_d])


def described(tensor: Tensor, description: TensorDescriptor) -> TensorDescriptor:
    """The description with the memory of `tensor`, whose layout it was made of.

    Its constructor would check in every call what the layout has said once; that takes as long as a launch.
    """
    found = object.__new__(TensorDescriptor)
    found.__dict__.update(description.__dict__, base=tensor)
    return found


def _describable(layout: Layout) -> bool:
    _, shape, strides, _ = layout
    # Strides of dimensions of one element count too: the descriptor holds them whether or not they are ever used.
    return (
        math.prod(shape) > 0
        and all(0 < stride * _ELEMENT_BYTES < _STRIDE_LIMIT for stride in strides)
        and all(stride * _ELEMENT_BYTES % 16 == 0 for stride in strides[:-1])
    )
