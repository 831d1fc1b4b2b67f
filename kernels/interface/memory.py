"""Whether a tensor's elements have memory: kernels read addresses, where nothing else would notice.

A tensor can outlive its memory: sharded training resizes the storage of parameters that are not in use. A kernel that
is given the address reads whatever lies there.
"""

import torch
from torch import Tensor


def check_memory(name: str, tensor: Tensor) -> None:
    """Raise ValueError if the storage of `tensor` ends before its last element does.

    What torch.compile traces and what function transforms (torch.func) wrap has no storage to look at, and passes.
    """
    if torch.compiler.is_compiling() or not tensor.numel():
        return
    try:
        held = tensor.untyped_storage().nbytes()
    except NotImplementedError:
        return
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    needed = (tensor.storage_offset() + last + 1) * tensor.itemsize
    if held < needed:
        raise ValueError(f"{name} has {held} bytes of memory; it must have the {needed} bytes of its elements")
