"""One launch of one kernel: on the tensors' device, on its current stream, over a one-dimensional grid."""

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fa2verify.kernels.triton.configuration import Configuration

_GRID_LIMIT = 2**31 - 1
_compile_only: ContextVar[bool] = ContextVar("compile_only", default=False)


@contextmanager
def compile_only() -> Iterator[None]:
    """Within it a launch compiles its kernel and runs nothing."""
    token = _compile_only.set(True)
    try:
        yield
    finally:
        _compile_only.reset(token)


def launch(
    kernel: Any,
    grid: tuple[int, int, int],
    config: Configuration,
    tensors: Mapping[str, Any],
    arguments: dict[str, object],
) -> None:
    """Run `kernel`; what it does not take of `arguments` is left out.

    grid  (blocks, heads, batch); a grid without programs launches nothing
    Raises ValueError if the grid has more than 2^31 - 1 programs, CUDA's limit.
    """
    programs = math.prod(grid)
    if programs == 0:
        return
    if programs > _GRID_LIMIT:
        raise ValueError(f"blocks x heads x batch = {grid} is more than the {_GRID_LIMIT:,} programs of a CUDA grid")
    blocks = {"blocks": grid[0], "block_m": config.block_m, "block_n": config.block_n}
    given: dict[str, object] = {**arguments, **blocks, **tensors}
    taken = {name: given[name] for name in kernel.arg_names}
    device = next(tensor.device for tensor in tensors.values() if isinstance(tensor, Tensor))
    with ExitStack() as stack:
        if device.type == "cuda":
            if device.index != torch.cuda.current_device():
                stack.enter_context(torch.cuda.device(device))
        else:
            # The interpreter computes with numpy, which warns of what a GPU does silently and by design here: overflow
            # to infinity, log2(0) of an empty row, exp2 of scores that no one stores.
            stack.enter_context(np.errstate(all="ignore"))
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore", RuntimeWarning)
            # Before 3.7 it turns arrays of one element into loop bounds, which numpy 1.25 to 2.3 deprecates.
            warnings.simplefilter("ignore", DeprecationWarning)
        options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
        if _compile_only.get():
            kernel.warmup(**taken, **options, grid=(programs,))
        else:
            kernel[(programs,)](**taken, **options)
