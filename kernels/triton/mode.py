"""Which of Triton's two ways runs our kernels in this process: compiled for a GPU, or interpreted on the CPU.

A process has one way: Triton decorates its standard library when it is first imported and our kernels when ours are,
and a compiled function cannot call an interpreted one.
"""

import importlib.util
import os

import numpy
import torch

# flash kernels need asynchronous copies and bf16 matrix instructions
_CAPABILITY = (8, 0)
_COMPILING = (
    "triton was imported without TRITON_INTERPRET=1 and compiles for GPUs, so it cannot run on the CPU; set "
    "TRITON_INTERPRET=1 in the environment before Python starts, or, on a machine without CUDA, import "
    "fa2verify.kernels.triton before triton"
)


def installed() -> bool:
    """Whether there is a triton to import; its wheels exist for Linux only."""
    return importlib.util.find_spec("triton") is not None


def interpreting() -> bool:
    """Whether the triton of this process interprets. It imports triton."""
    import triton.language as tl
    from triton.runtime.interpreter import InterpretedFunction

    return isinstance(tl.cdiv, InterpretedFunction)


def unavailable(device: torch.device) -> tuple[str, ...]:
    """Why our Triton kernels cannot run on `device`, in sentences. Empty: they can."""
    if not installed():
        return ("triton is not installed (pip install 'triton>=3.6'; Linux only)",)
    import triton

    if bool(triton.knobs.runtime.interpret) != interpreting():
        value = os.environ.get("TRITON_INTERPRET")
        reason = f"TRITON_INTERPRET is {value!r} now but was different when triton, which reads it once, was imported"
        return (f"{reason}; set it in the environment before Python starts",)
    if device.type == "cpu":
        if interpreting():
            return _interpreter_defects(triton.__version__, numpy.__version__)
        return (_COMPILING,)
    if device.type != "cuda":
        return (f"it runs on cuda devices and, interpreted, on the cpu, not on {device.type!r}",)
    if interpreting():
        return ("triton's interpreter is active, which is no test of a GPU; unset TRITON_INTERPRET to compile",)
    if torch.version.hip is not None:
        return ("its launch configurations are for NVIDIA GPUs; this torch is built for ROCm",)
    capability = torch.cuda.get_device_capability(device)
    if capability < _CAPABILITY:
        return (f"it needs compute capability 8.0 or later, not {capability[0]}.{capability[1]}",)
    return ()


def _interpreter_defects(triton_version: str, numpy_version: str) -> tuple[str, ...]:
    if _version(triton_version) < (3, 7) and _version(numpy_version) >= (2, 4):
        reason = f"the interpreter of triton {triton_version} cannot run loops with numpy {numpy_version}"
        return (f"{reason}; install triton 3.7 or later, or numpy before 2.4",)
    return ()


def _version(text: str) -> tuple[int, int]:
    major, minor, *_ = text.split(".")
    return int(major), int(minor)
