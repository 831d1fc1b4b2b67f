"""How a device function is declared: a function of a kernel's values that becomes part of each kernel that calls it."""

from collections.abc import Callable
from typing import TypeVar

import triton

from fa2verify.kernels.triton.mode import interpreting

Function = TypeVar("Function", bound=Callable[..., object])


def device(function: Function) -> Function:
    """Declare a device function.

    Interpreted, it stays the Python function that it is and a kernel calls it directly: Triton's interpreter patches
    its whole language anew at each call of a decorated function, 0.15 ms that would be half of our kernels' time.
    """
    return function if interpreting() else triton.jit(function)
