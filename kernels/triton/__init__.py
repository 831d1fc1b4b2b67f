"""Our FlashAttention-2 kernels in Triton, behind flash-attn 2's own functions.

    from fa2verify.kernels.triton import flash_attn_func

On a machine without CUDA they run under Triton's interpreter. Triton reads TRITON_INTERPRET when its own modules are
first imported (its standard library is decorated then), so the variable has to be set here, before anything below
imports triton. Where triton came first, it stays as it is and `fa2verify.kernels.triton.mode` says what to do. The
functions are therefore imported when they are first asked for.
"""

import importlib
import os
import sys
from typing import Any

import torch

# torch.cuda.is_available() would start CUDA, after which no process that is forked from this one could use a GPU.
if "triton" not in sys.modules and not torch.cuda.device_count():
    os.environ.setdefault("TRITON_INTERPRET", "1")

__all__ = [
    "flash_attn_func",
    "flash_attn_kvpacked_func",
    "flash_attn_qkvpacked_func",
    "flash_attn_varlen_func",
    "flash_attn_varlen_kvpacked_func",
    "flash_attn_varlen_qkvpacked_func",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("fa2verify.kernels.triton.attention"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
