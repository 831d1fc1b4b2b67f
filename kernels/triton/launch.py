"""One launch of one kernel: on the tensors' device, on its current stream, over a one-dimensional grid."""

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from fa2verify.kernels.triton.configuration import Configuration

_GRID_LIMIT = 2**31 - 1
_ABSENT = dict.fromkeys(("cu_seqlens_q", "cu_seqlens_k", "alibi_slopes", "dropout_seed"))
_compile_only: ContextVar[bool] = ContextVar("compile_only", default=False)


@contextmanager
def compile_only() -> Iterator[None]:
    """Within it a launch compiles its kernel and runs nothing."""
    token = _compile_only.set(True)
    try:
        yield
    finally:
        _compile_only.reset(token)


def compiling_only() -> bool:
    """Whether this is within `compile_only`."""
    return _compile_only.get()


@dataclass(frozen=True, slots=True)
class Launch:
    """A launch without its tensors: what is kept of it, see `fa2verify.kernels.interface.signature`.

    kernel     Triton's
    programs   of its grid, which has one dimension; without any, nothing is launched
    constants  the kernel's arguments that are no tensors, and Triton's own
    tensors    the names of the arguments that are
    compiled   the compiled kernel, by device and dtype
    """

    kernel: Any
    programs: int
    constants: dict[str, object]
    tensors: tuple[str, ...]
    compiled: dict[tuple[torch.device, torch.dtype], Any] = field(default_factory=dict, compare=False, repr=False)

    def __call__(self, tensors: Mapping[str, Any], device: torch.device, dtype: torch.dtype) -> None:
        """Run it on `tensors`, by name, on their `device`; what a call does not bring of its own tensors is None.

        dtype  of the tensors that are no fp32 statistics
        """
        if not self.programs:
            return
        if device.type == "cpu":
            with np.errstate(all="ignore"), warnings.catch_warnings():
                # The interpreter computes with numpy, which warns of what a GPU does silently and by design here:
                # overflow to infinity, log2(0) of an empty row, exp2 of scores that no one stores.
                warnings.simplefilter("ignore", RuntimeWarning)
                # Before 3.7 it turns arrays of one element into loop bounds, which numpy 1.25 to 2.3 deprecates.
                warnings.simplefilter("ignore", DeprecationWarning)
                self._start(tensors, (device, dtype))
        elif device.index == torch.cuda.current_device():
            self._start(tensors, (device, dtype))
        else:
            with torch.cuda.device(device):
                self._start(tensors, (device, dtype))

    def _start(self, tensors: Mapping[str, Any], key: tuple[torch.device, torch.dtype]) -> None:
        given = {**self.constants, **_ABSENT, **tensors}
        if _compile_only.get():
            self.kernel.warmup(**self._taken(given), **self.constants, grid=(self.programs,))
        elif compiled := self.compiled.get(key):
            compiled[(self.programs, 1, 1)](*map(given.__getitem__, self.kernel.arg_names))
        else:
            # Triton finds a compiled kernel by all of its arguments. Here none but their dtype can change, since
            # nothing is specialised by an address or a number: found once, it stays the one.
            self.compiled[key] = self.kernel[(self.programs,)](**self._taken(given), **self.constants)

    def _taken(self, given: Mapping[str, Any]) -> dict[str, Any]:
        return {name: given[name] for name in self.tensors}


def prepare(kernel: Any, grid: tuple[int, int, int], config: Configuration, arguments: Mapping[str, object]) -> Launch:
    """A launch of `kernel`; what it does not take of `arguments` is left out, what they lack is a tensor.

    grid  (blocks, heads, batch)
    Raises ValueError if the grid has more than 2^31 - 1 programs, CUDA's limit.
    """
    programs = math.prod(grid)
    if programs > _GRID_LIMIT:
        raise ValueError(f"blocks x heads x batch = {grid} is more than the {_GRID_LIMIT:,} programs of a CUDA grid")
    given = {**arguments, "blocks": grid[0], "block_m": config.block_m, "block_n": config.block_n}
    constants = {name: given[name] for name in kernel.arg_names if name in given}
    options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
    return Launch(kernel, programs, constants | options, tuple(name for name in kernel.arg_names if name not in given))
