"""Whether a tensor's elements have memory: kernels read addresses, where nothing else would notice.

A tensor can outlive its memory: sharded training resizes the storage of parameters that are not in use. A kernel that
is given the address reads whatever lies there.
"""

import torch
from torch import Tensor


def span_of(tensor: Tensor) -> int:
    """Elements from the first of `tensor` in memory to its last, both counted; 0 if it has none."""
    if not tensor.numel():
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def check_memory(name: str, tensor: Tensor, span: int | None = None) -> None:
    """Raise ValueError if the storage of `tensor` ends before its last element does.

    span  `span_of(tensor)`, where it is known

    What torch.compile traces and what function transforms (torch.func) wrap has no storage to look at, and passes.
    """
    if torch.compiler.is_compiling():
        return
    span = span_of(tensor) if span is None else span
    if not span:
        return
    try:
        held = tensor.untyped_storage().nbytes()
    except NotImplementedError:
        return
    needed = (tensor.storage_offset() + span) * tensor.itemsize
    if held < needed:
        raise ValueError(f"{name} has {held} bytes of memory; it must have the {needed} bytes of its elements")
