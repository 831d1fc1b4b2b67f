"""Launches kernels on a GPU: on the tensors' device, on torch's current stream.

A kernel's one argument is a C structure, which cuda-core's `launch` does not take; the launch itself is therefore the
driver's cuLaunchKernel through cuda-bindings. Kernels are loaded once a device.
"""

import ctypes
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from fa2verify.kernels.cuda.call import CallStructure
from fa2verify.kernels.cuda.configuration import Variant
from fa2verify.kernels.cuda.gpu_compiler import compile_cached
from fa2verify.kernels.cuda.source import ENTRY


class LaunchError(RuntimeError):
    """The driver refused; the message has its name for the reason."""


def launch(variant: Variant, blocks: int, call: CallStructure, device: torch.device) -> None:
    """Start `blocks` blocks of a kernel. Raises LaunchError; compiler errors pass through."""
    if not blocks:
        return
    # The tensors' device: the caller's current device may be another one.
    if device.index == torch.cuda.current_device():
        _start(variant, blocks, call, device.index)
    else:
        with torch.cuda.device(device):
            _start(variant, blocks, call, device.index)


def _start(variant: Variant, blocks: int, call: CallStructure, index: int) -> None:
    """Start them on the current device, whose index is given, on its current stream."""
    kernel = _kernel(variant, index)
    # The driver copies the argument before it returns.
    arguments = (ctypes.c_void_p * 1)(ctypes.addressof(call))
    # What torch.cuda.current_stream makes an object of.
    stream = torch._C._cuda_getCurrentRawStream(index)
    status = kernel(blocks, stream, ctypes.addressof(arguments))
    if int(status) and status.name == "CUDA_ERROR_INVALID_CONTEXT":
        _enter_context(index)
        status = kernel(blocks, stream, ctypes.addressof(arguments))
    _check(status, variant)


@dataclass(frozen=True, slots=True)
class _Kernel:
    """A kernel on a device, and what a launch of it takes beside its argument."""

    start: Callable[..., Any]
    function: Any
    threads: int
    shared_bytes: int

    def __call__(self, blocks: int, stream: int, arguments: int) -> Any:
        """Give the driver's status."""
        sizes = (blocks, 1, 1, self.threads, 1, 1, self.shared_bytes)
        return self.start(self.function, *sizes, stream, arguments, 0)[0]


@cache
def shared_kb(device: torch.device) -> int:
    """KB of shared memory that a block on `device`, which has an index, may ask for."""
    from cuda.bindings import driver

    status, handle = driver.cuDeviceGet(device.index)
    _check(status)
    attribute = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
    status, size = driver.cuDeviceGetAttribute(attribute, handle)
    _check(status)
    return int(size) // 1024


@cache
def _kernel(variant: Variant, index: int) -> _Kernel:
    """A kernel, loaded on a device and allowed all the shared memory that it takes."""
    from cuda.bindings import driver

    begin = time.perf_counter()
    _enter_context(index)
    major, minor = torch.cuda.get_device_capability(index)
    code = compile_cached(variant, f"sm_{major}{minor}")
    _loaded[variant, index] = code
    kernel = code.get_kernel(ENTRY)
    status, function = driver.cuKernelGetFunction(driver.CUkernel(int(kernel.handle)))
    _check(status, variant)
    attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    (status,) = driver.cuFuncSetAttribute(function, attribute, variant.shared_bytes)
    _check(status, variant)
    _load_seconds.setdefault(variant, time.perf_counter() - begin)
    return _Kernel(driver.cuLaunchKernel, function, variant.threads, variant.shared_bytes)


# A library is unloaded with its last reference, and its functions with it.
_loaded: dict[tuple[Variant, int], Any] = {}


def load_seconds() -> dict[Variant, float]:
    """The variants that this process has launched, in this order, and what the first launch of each took over others.

    That is to compile it, or to read it from disk, and to load it. Of the first of all, to load NVRTC, too.
    """
    return dict(_load_seconds)


_load_seconds: dict[Variant, float] = {}


def _enter_context(index: int) -> None:
    """Make the device's primary context, which torch works in, this thread's if the thread has none yet."""
    from cuda.bindings import driver

    status, current = driver.cuCtxGetCurrent()
    _check(status)
    if int(current):
        return
    status, context = driver.cuDevicePrimaryCtxRetain(index)
    _check(status)
    (status,) = driver.cuCtxSetCurrent(context)
    _check(status)


def _check(status: Any, variant: Variant | None = None) -> None:
    if int(status):
        raise LaunchError(f"{variant.expression}: {status.name}" if variant else status.name)
