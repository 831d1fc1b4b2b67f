"""Which kernels there are: the built-in ones, those of installed packages, and whatever a user points at.

A kernel comes from one of three places: the list here; the entry-point group `fa2verify.kernels` of any installed
distribution; or a spec, `module:object` or `path/to/file.py:object`. The object is a `Kernel`, a subclass of it, or a
plain function (see `fa2verify.kernels.function`). A broken package must not keep the others from being verified, so it
becomes a kernel that is unavailable and says why; a broken spec is an error, as somebody just typed it.
"""

import hashlib
import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

# First of all: it decides whether Triton's interpreter is used, which must happen before anything imports triton.
import fa2verify.kernels.triton  # noqa: F401
from fa2verify.kernels.cuda.kernel import CudaKernel, EmulatedCudaKernel
from fa2verify.kernels.function import FunctionKernel
from fa2verify.kernels.kernel import Kernel, Outputs
from fa2verify.kernels.peers.flash_attn import FlashAttnKernel
from fa2verify.kernels.peers.flex_cpu import FlexCpuKernel
from fa2verify.kernels.peers.flex_cuda import FlexCudaKernel
from fa2verify.kernels.peers.sdpa_cudnn import SdpaCudnnKernel
from fa2verify.kernels.peers.sdpa_efficient import SdpaEfficientKernel
from fa2verify.kernels.peers.sdpa_flash import SdpaFlashKernel
from fa2verify.kernels.peers.sdpa_flash_cpu import SdpaFlashCpuKernel
from fa2verify.kernels.peers.sdpa_math import SdpaMathKernel
from fa2verify.kernels.peers.varlen import VarlenKernel
from fa2verify.kernels.problem import Problem
from fa2verify.kernels.tensors import Tensors

GROUP = "fa2verify.kernels"

_PEERS: tuple[type[Kernel], ...] = (
    SdpaMathKernel,
    SdpaFlashKernel,
    SdpaFlashCpuKernel,
    SdpaEfficientKernel,
    SdpaCudnnKernel,
    FlexCudaKernel,
    FlexCpuKernel,
    VarlenKernel,
    FlashAttnKernel,
)


class KernelSpecError(ValueError):
    """A spec that leads to no kernel; the message says what was tried and what would be right."""


@dataclass(frozen=True, slots=True)
class Registered:
    """A kernel and where it comes from: "built in", "entry point NAME" or "--kernel=SPEC"."""

    kernel: Kernel
    origin: str


class UnloadableKernel(Kernel):
    """What stands in for a kernel that could not be loaded: unavailable everywhere, for `reason`."""

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self.lineage = "unknown"
        self.reason = reason

    def unavailable(self, device: torch.device) -> tuple[str, ...]:  # noqa: ARG002
        """The reason, on every device."""
        return (self.reason,)

    def unsupported(self, problem: Problem) -> tuple[str, ...]:  # noqa: ARG002
        """The reason, for every problem."""
        return (self.reason,)

    def __call__(self, problem: Problem, tensors: Tensors) -> Outputs:  # noqa: ARG002
        """Raise RuntimeError: there is nothing to call."""
        raise RuntimeError(self.reason)


def builtin() -> tuple[Registered, ...]:
    """Our kernels, then the peers."""
    return tuple(Registered(kernel, "built in") for kernel in (*_ours(), *(peer() for peer in _PEERS)))


def _ours() -> tuple[Kernel, ...]:
    return (_triton(), CudaKernel(), EmulatedCudaKernel())


def _triton() -> Kernel:
    try:
        from fa2verify.kernels.triton.kernel import TritonKernel
    except ImportError as error:
        # Triton is published for Linux alone; elsewhere the peers can still be verified.
        return UnloadableKernel("fa2verify-triton", f"It cannot be imported: {type(error).__name__}: {error}.")
    return TritonKernel()


def entry_points() -> tuple[Registered, ...]:
    """The kernels of installed distributions, in order of entry-point name."""
    found = sorted(importlib.metadata.entry_points(group=GROUP), key=lambda point: point.name)
    return tuple(Registered(_loaded(point), f"entry point {point.name}") for point in found)


def _loaded(point: importlib.metadata.EntryPoint) -> Kernel:
    try:
        return as_kernel(point.load(), point.name, point.value)
    except Exception as error:  # noqa: BLE001 - importing a package can raise anything; it is kept as the kernel's reason
        return UnloadableKernel(point.name, f"{point.value} cannot be loaded: {type(error).__name__}: {error}.")


def select(specs: Sequence[str]) -> tuple[Registered, ...]:
    """The kernels that `specs` name, each a known kernel's name or a spec for `load`; all known ones without any.

    Raises KernelSpecError for an unknown name, a spec that leads nowhere, or two kernels of one name.
    """
    known = (*builtin(), *entry_points())
    by_name = _by_name(known)
    if not specs:
        return known
    return tuple(_by_name([by_name[spec] if spec in by_name else _unknown(spec, by_name) for spec in specs]).values())


def _unknown(spec: str, known: dict[str, Registered]) -> Registered:
    if ":" in spec:
        return load(spec)
    raise KernelSpecError(
        f"{spec!r} is the name of no kernel{_close(spec, known)}; known are {', '.join(known)}. "
        "Another one is given as module:object or path/to/file.py:object"
    )


def _by_name(kernels: Sequence[Registered]) -> dict[str, Registered]:
    by_name: dict[str, Registered] = {}
    for registered in kernels:
        name = registered.kernel.name
        if name in by_name:
            raise KernelSpecError(
                f"two kernels are named {name!r}: one from {by_name[name].origin}, one from {registered.origin}; "
                "a name must be unique"
            )
        by_name[name] = registered
    return by_name


def load(spec: str) -> Registered:
    """The kernel at `spec`: `module:object` or `path/to/file.py:object`, where `object` may have dots.

    A function's name as a kernel is the whole spec, so that the line which runs a failure again finds it. Raises
    KernelSpecError.
    """
    place, _, path = spec.rpartition(":")
    if not place or not path:
        raise KernelSpecError(f"{spec!r} is no spec; it must be module:object or path/to/file.py:object")
    module = _import_file(spec, Path(place)) if place.endswith(".py") else _import_module(spec, place)
    found: Any = module
    walked = place
    for attribute in path.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError:
            raise KernelSpecError(
                f"{spec}: {walked} has no attribute {attribute!r}{_close(attribute, _public(found))}"
            ) from None
        walked = f"{walked}.{attribute}" if walked != place else f"{place}:{attribute}"
    try:
        return Registered(as_kernel(found, spec, spec), f"--kernel={spec}")
    except TypeError as error:
        raise KernelSpecError(f"{spec}: {error}") from error


def as_kernel(found: Any, name: str, place: str) -> Kernel:
    """`found` as a kernel: a Kernel itself, a subclass of it made without arguments, or a function, named `name`.

    Raises TypeError for anything else, naming `place` and what would be right.
    """
    if isinstance(found, type):
        if not issubclass(found, Kernel):
            raise TypeError(f"{place} is a class, but no subclass of fa2verify.kernels.kernel.Kernel")
        found = found()
    if not isinstance(found, Kernel):
        function: Callable[..., Any] = found
        return FunctionKernel(function, name)
    for attribute in ("name", "lineage"):
        if not isinstance(getattr(found, attribute, None), str):
            raise TypeError(f"{place} is a Kernel without {attribute}; a subclass sets it to a string")
    return found


def _import_module(spec: str, name: str) -> ModuleType:
    # At the end: the current directory is not on sys.path under the pytest command, and an installed package must win
    # over a folder that happens to lie here. It stays, for what the module imports later.
    _append_path(Path.cwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise KernelSpecError(
                f"{spec}: there is no module {error.name!r}, neither installed nor in the directory {Path.cwd()}"
            ) from None
        raise KernelSpecError(f"{spec}: cannot import {name}: {type(error).__name__}: {error}") from error
    except Exception as error:
        raise KernelSpecError(f"{spec}: cannot import {name}: {type(error).__name__}: {error}") from error


def _import_file(spec: str, path: Path) -> ModuleType:
    file = path.resolve()
    if not file.is_file():
        raise KernelSpecError(f"{spec}: there is no file {file}")
    # A name of its own, from the whole path: two files kernel.py are two modules, and one file is loaded once.
    name = f"{path.stem}_{hashlib.sha256(str(file).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    described = importlib.util.spec_from_file_location(name, file)
    if described is None or described.loader is None:
        raise KernelSpecError(f"{spec}: {file} cannot be read as a Python module")
    _append_path(Path.cwd())
    _append_path(file.parent)
    module = importlib.util.module_from_spec(described)
    sys.modules[name] = module
    try:
        described.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise KernelSpecError(f"{spec}: cannot import {file}: {type(error).__name__}: {error}") from error
    return module


def _append_path(directory: Path) -> None:
    if str(directory) not in sys.path:
        sys.path.append(str(directory))


def _public(found: Any) -> list[str]:
    return [name for name in dir(found) if not name.startswith("_")]


def _close(name: str, among: Sequence[str] | dict[str, Registered]) -> str:
    close = get_close_matches(name, list(among))
    return f"; did you mean {' or '.join(repr(each) for each in close)}?" if close else ""
