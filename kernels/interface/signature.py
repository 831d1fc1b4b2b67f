"""What is known of a call once a call of the same signature was made: it is worked out once, and kept.

A model makes the same call thousands of times: shapes, strides, dtypes, device and options stay, addresses and values
do not. To check a call, and to write down what its kernels must know of it, costs the host more than to launch them. So
both happen at the first call of a signature, and later ones look up what came of it. Kept are

* that the checks passed, in `fa2verify.kernels.interface.attention`;
* the call as backends are given it, in `fa2verify.kernels.interface.operators`;
* the arguments of a launch, by the backends.

Each is keyed by everything that it was worked out from, holds no tensor, and is bounded by `MOST`. What a signature
does not say is looked at in every call: whether a tensor has memory and where it begins, values, derivatives.
"""

from collections.abc import Mapping
from typing import Generic, TypeVar

import torch
from torch import Tensor

MOST = 4096
Value = TypeVar("Value")
Signature = tuple[object, ...]
Layout = tuple[str, tuple[int, ...], tuple[int, ...], bool]  # name, shape, strides, whether it begins at 16 bytes


class Kept(Generic[Value]):
    """A bounded mapping, for any thread; when it is full it begins anew, which costs a call of each signature."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._values: dict[Signature, Value] = {}

    def __len__(self) -> int:
        return len(self._values)

    def get(self, signature: Signature | None) -> Value | None:
        """What was kept, or None."""
        try:
            return None if signature is None else self._values.get(signature)
        except TypeError:
            return None  # not hashable: an argument of a wrong type, or a symbol of torch's tracing

    def keep(self, signature: Signature | None, value: Value) -> None:
        """Keep `value`, unless the signature is None or not hashable."""
        if len(self._values) >= self._most:
            self._values.clear()
        try:
            if signature is not None:
                self._values[signature] = value
        except TypeError:
            return


def signature_of(tensors: tuple[object, ...], options: tuple[object, ...]) -> Signature | None:
    """Everything of a call that does not change from call to call; None if an argument is of an unusual kind.

    tensors  each a tensor or None
    options  compared by type and value: True is no 1 here, nor is 1 the same as 1.0

    Unusual is what may have no shape to ask for or more to it than shape, strides, dtype and device: a nested or sparse
    tensor, a subclass of Tensor.
    """
    # Types come first: values are compared only if their types are the same.
    parts: list[object] = [tuple(map(type, options)), options]
    for tensor in tensors:
        if tensor is None:
            parts.append(None)
        elif type(tensor) is Tensor and not tensor.is_nested and tensor.layout is torch.strided:
            parts.append((tensor.shape, tensor.stride(), tensor.dtype, tensor.device))
        else:
            return None
    return tuple(parts)


def placed(tensors: Mapping[str, Tensor | None]) -> tuple[tuple[Layout, ...], list[int]]:
    """What a launch's arguments depend on, for each of `tensors` that is not None, and their addresses."""
    layouts, addresses = [], []
    for name, tensor in tensors.items():
        if tensor is not None:
            address = tensor.data_ptr()
            layouts.append((name, tensor.shape, tensor.stride(), address % 16 == 0))
            addresses.append(address)
    return tuple(layouts), addresses
