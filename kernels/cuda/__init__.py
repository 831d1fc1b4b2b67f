"""Our FlashAttention-2 kernels in CUDA C++, behind flash-attn 2's own functions.

    from fa2verify.kernels.cuda import flash_attn_func

NVRTC compiles them when they are first called; tensors on a CPU go to an emulator, which runs the same source. The
functions are imported when they are first asked for, because with them come torch operators, which are global.
"""

import importlib
from typing import Any

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
        return getattr(importlib.import_module("fa2verify.kernels.cuda.attention"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
