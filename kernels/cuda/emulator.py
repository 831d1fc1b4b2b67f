"""Runs kernels on the CPU: the same source, built by the host's compiler against the emulating machine.

What the emulator finds (a race, an access outside a tensor, a barrier that not all threads reach) is an EmulatorError
that names kernel, place and threads. `machine_host.hpp` says what it does and does not imitate.
"""

import ctypes
import itertools
import os
import threading
from functools import cache

from torch import Tensor

from fa2verify.kernels.cuda import configuration
from fa2verify.kernels.cuda.call import CallStructure
from fa2verify.kernels.cuda.configuration import Feature, Variant, variants
from fa2verify.kernels.cuda.host_compiler import library
from fa2verify.kernels.cuda.source import host_source

# Blocks have the shared memory, and hence the tiles, of the GPUs that have most: those of compute capability 9.0.
SHARED_KB = configuration.SHARED_KB[-1]


class EmulatorError(RuntimeError):
    """A kernel did what no kernel may; the message says what, where and who."""


class Range(ctypes.Structure):
    """`emulator::Range` of memory.hpp: the bytes of a tensor, first to last element."""

    _fields_ = (("begin", ctypes.c_size_t), ("end", ctypes.c_size_t), ("name", ctypes.c_char_p))

    @classmethod
    def of(cls, name: str, tensor: Tensor) -> "Range":
        """The bytes that `tensor` spans."""
        elements = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
        begin = tensor.data_ptr()
        return cls(begin, begin + (elements * tensor.element_size() if tensor.numel() else 0), name.encode())


# Every launch has a schedule of its own; FA2VERIFY_EMULATOR_SEED makes a run of a program repeat.
_seeds = itertools.count(int(os.environ.get("FA2VERIFY_EMULATOR_SEED", "0")))


# The block at work is a global of each library, and ctypes lets other Python threads run.
_one_at_a_time = threading.Lock()


def launch(variant: Variant, blocks: int, call: CallStructure, tensors: dict[str, Tensor]) -> None:
    """Run `blocks` blocks of a kernel on CPU tensors. Raises EmulatorError, HostCompilerError."""
    if not blocks:
        return
    function = _function(variant)
    run(function, blocks, variant.threads, variant.shared_bytes, ctypes.byref(call), ranges(tensors), variant.name)


def ranges(tensors: dict[str, Tensor]) -> ctypes.Array[Range]:
    """The ranges of `tensors` as a C array."""
    return (Range * len(tensors))(*(Range.of(name, tensor) for name, tensor in tensors.items()))


def run(  # type: ignore[no-untyped-def]  # ctypes' functions and arguments have no usable types
    function, blocks: int, threads: int, shared_bytes: int, argument, tensor_ranges: ctypes.Array[Range], name: str
) -> None:
    """Run one entry of an emulated library. Raises EmulatorError."""
    with _one_at_a_time:
        seed = next(_seeds)
        report = function(argument, blocks, threads, shared_bytes, tensor_ranges, len(tensor_ranges), seed)
        if report is not None:
            raise EmulatorError(f"{name}: {report.decode().rstrip()}\n  schedule: FA2VERIFY_EMULATOR_SEED={seed}")


@cache
def _function(variant: Variant):  # type: ignore[no-untyped-def]
    # One library for a dtype and head_dim, with every kernel and every feature: it builds in seconds. Other tiles than
    # the table's have a library of their own.
    every = variants(variant.dtype, variant.head_dim, Feature.ANY, configuration.SHARED_KB[-1])
    built = library(host_source(every if variant in every else (variant,)))
    built.call_size.restype = ctypes.c_size_t
    if built.call_size() != ctypes.sizeof(CallStructure):
        raise EmulatorError(
            f"Call has {built.call_size()} bytes in call.cuh and {ctypes.sizeof(CallStructure)} in call.py"
        )
    return prepared(built, variant.name)


def prepared(built: ctypes.CDLL, name: str):  # type: ignore[no-untyped-def]
    """The entry `name` of an emulated library, its types declared."""
    function = built[name]
    function.restype = ctypes.c_char_p
    function.argtypes = (
        ctypes.c_void_p,
        ctypes.c_uint,
        ctypes.c_uint,
        ctypes.c_size_t,
        ctypes.c_void_p,
        ctypes.c_uint,
        ctypes.c_uint64,
    )
    return function
