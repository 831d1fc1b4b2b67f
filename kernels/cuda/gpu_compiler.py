"""Compiles variants for NVIDIA GPUs with NVRTC, through cuda-core, which also keeps them on disk.

The cache's key covers source, options, architecture and NVRTC version; it is cuda-core's own. NVRTC needs no driver, so
that every architecture can be compiled on any machine.
"""

import importlib.util
import io
from functools import cache
from typing import Any

from fa2verify.kernels.cache import cache_folder
from fa2verify.kernels.cuda.configuration import Variant
from fa2verify.kernels.cuda.source import gpu_source


def unavailable() -> tuple[str, ...]:
    """Why nothing can be compiled here, in sentences."""
    missing = [name for name in ("cuda.core", "cuda.bindings") if not _found(name)]
    if missing:
        return (f"{' and '.join(missing)} cannot be imported; install fa2verify[cuda]",)
    try:
        from cuda.bindings import nvrtc

        nvrtc.nvrtcVersion()
    except RuntimeError as error:  # what cuda-bindings raises when the library is not on this machine
        return (f"NVRTC cannot be loaded ({error}); install fa2verify[cuda]",)
    return ()


def _found(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # its parent
        return False


def compile_cached(variant: Variant, arch: str) -> Any:
    """The variant's `cuda.core.ObjectCode` for `arch` ("sm_90"), from the disk cache if it is there."""
    return _program(variant, arch, verbose=False).compile("cubin", cache=_cache())


def compile_verbose(variant: Variant, arch: str) -> tuple[Any, str]:
    """The variant's `cuda.core.ObjectCode`, compiled anew, and what ptxas says of its resources."""
    log = io.StringIO()
    return _program(variant, arch, verbose=True).compile("cubin", logs=log), log.getvalue()


def _program(variant: Variant, arch: str, *, verbose: bool) -> Any:
    from cuda.core import Program

    return Program(gpu_source(variant), "c++", _options(arch, variant.tiles.level, verbose=verbose))


def _options(arch: str, level: int, *, verbose: bool) -> Any:
    from cuda.bindings import nvrtc
    from cuda.core import ProgramOptions

    # Since 12.9 NVRTC keeps binaries in the driver's cache too, where there is a driver: ptxas, which is not run for
    # one that lies there, says nothing. Before 12.9 the option is unknown, and an error.
    _, *version = nvrtc.nvrtcVersion()
    return ProgramOptions(
        arch=arch,
        std="c++17",
        ptxas_options=[f"-O{level}", *(["-v"] if verbose else [])],
        no_cache=verbose and version >= [12, 9],
    )


@cache
def _cache() -> Any:
    from cuda.core.utils import FileStreamProgramCache

    return FileStreamProgramCache(cache_folder("cubin"))
