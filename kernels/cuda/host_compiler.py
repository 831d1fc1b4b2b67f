"""Builds C++ for this machine with the system's compiler, once: shared libraries in a cache, loaded with ctypes."""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from fa2verify.kernels.cache import cache_folder

# More flags for all that is built, for example a sanitizer's; see README.md.
_MORE_FLAGS = tuple(os.environ.get("FA2VERIFY_EMULATOR_FLAGS", "").split())
# x86-64-v3 brings fp16 conversion and fused multiply-add; `-fcf-protection=none` because fibers return to addresses
# that no call has pushed.
_FLAGS = (
    *("-std=c++20", "-O2", "-march=x86-64-v3", "-fPIC", "-shared", "-fcf-protection=none", "-Wno-unknown-pragmas"),
    *_MORE_FLAGS,
)
_NEEDED = {"avx2", "f16c", "fma"}


class HostCompilerError(RuntimeError):
    """The compiler refused; the message is its own."""


def unavailable() -> tuple[str, ...]:
    """Why nothing can be built and run here, in sentences."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return (f"the emulator is for x86-64 Linux, not {platform.machine()} {sys.platform}",)
    if missing := _NEEDED - _processor_flags():
        return (f"the emulator needs a processor with {', '.join(sorted(missing))}",)
    if _compiler() is None:
        return ("the emulator is built with a C++20 compiler: install g++ 11 or later, or name one in CXX",)
    return ()


@cache
def library(source: str) -> ctypes.CDLL:
    """Build `source` and load it, from the cache if it is there. Raises HostCompilerError."""
    compiler = _compiler()
    if compiler is None:
        raise HostCompilerError("; ".join(unavailable()))
    key = hashlib.sha256("\0".join((source, _version(compiler), *_FLAGS)).encode()).hexdigest()
    target = cache_folder("emulator") / f"{key[:32]}.so"
    if not target.exists():
        _build(compiler, source, target)
    return ctypes.CDLL(str(target))


def _build(compiler: str, source: str, target: Path) -> None:
    # Built aside and renamed: workers that need the same variant at once each see all of it or nothing.
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        text, built = Path(folder) / "emulated.cpp", Path(folder) / "emulated.so"
        text.write_text(source)
        done = subprocess.run(
            [compiler, *_FLAGS, str(text), "-o", str(built)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise HostCompilerError(f"{compiler} failed ({done.returncode}):\n{done.stderr[:4000]}")
        built.rename(target)


@cache
def _compiler() -> str | None:
    return shutil.which(os.environ.get("CXX", "g++"))


@cache
def _version(compiler: str) -> str:
    return subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout


@cache
def _processor_flags() -> frozenset[str]:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            return frozenset(line.split(":", 1)[1].split())
    return frozenset()
