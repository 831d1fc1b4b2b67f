"""Tensor descriptors: addresses computed by the TMA unit instead of by threads.

A tile's addresses take registers that the backward at head_dim 128 does not have. They serve dense calls, where a
descriptor knows each sequence's end; in a packed batch the rows after a sequence are the next one's.
"""

from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from fa2verify.kernels.triton.configuration import Configuration, has_tma

_STRIDE_LIMIT = 2**40  # bytes; CUDA driver API, cuTensorMapEncodeTiled


def use_descriptors(config: Configuration, arguments: dict[str, object], tensors: tuple[Tensor, ...]) -> bool:
    """Whether the configuration asks for descriptors and the call's tensors can have them.

    TMA takes strides that are positive multiples of 16 bytes; `arguments` are the launch's.
    """
    return (
        config.descriptors
        and not arguments["varlen"]
        and bool(arguments["aligned"])
        and all(tensor.numel() > 0 and _describable(tensor) for tensor in tensors)
        and (tensors[0].device.type == "cpu" or has_tma(tensors[0].device))
    )


def describe(tensor: Tensor, block: int, block_d: int) -> TensorDescriptor:
    """Describe (batch, seqlen, heads, head_dim) as (batch, heads, seqlen, head_dim) in boxes (1, 1, block, block_d)."""
    heads_first = tensor.transpose(1, 2)
    return TensorDescriptor.from_tensor(heads_first, [1, 1, block, block_d])


def _describable(tensor: Tensor) -> bool:
    # Strides of dimensions of one element count too: the descriptor holds them whether or not they are ever used.
    return all(0 < stride * tensor.element_size() < _STRIDE_LIMIT for stride in tensor.stride()) and all(
        stride * tensor.element_size() % 16 == 0 for stride in tensor.stride()[:-1]
    )
