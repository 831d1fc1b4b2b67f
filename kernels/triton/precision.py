"""Device functions for where a value changes its precision: operands of matrix products, and what is stored.

Compiled, they are the plain conversions. Interpreted, tiles live in fp32: the interpreter keeps bf16 as raw 16-bit
integers and computes on those, and its own conversion to bf16 truncates. Every product of two fp16 or bf16 numbers is
exact in fp32, so the interpreted result is the GPU's up to the order of summation.
"""
# Device code: its arguments are Triton's values, which have no Python types.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"

import triton.language as tl

from fa2verify.kernels.triton.device import device
from fa2verify.kernels.triton.mode import interpreting

INTERPRETED: tl.constexpr = tl.constexpr(interpreting())


@device
def operand(x):
    """Turn a loaded tile into an operand of a matrix product."""
    if INTERPRETED:
        if x.dtype == tl.bfloat16:
            bits = x.to(tl.uint16, bitcast=True).to(tl.uint32) << 16
            x = bits.to(tl.float32, bitcast=True)
        else:
            x = x.to(tl.float32)
    return x


@device
def rounded(x, dtype: tl.constexpr):
    """Round an fp32 tile to `dtype`, to nearest even, as an operand of a matrix product."""
    if INTERPRETED:
        if dtype == tl.bfloat16:
            x = (_nearest_bf16(x) << 16).to(tl.float32, bitcast=True)
        else:
            x = x.to(dtype).to(tl.float32)
    else:
        x = x.to(dtype)
    return x


@device
def storable(x, dtype: tl.constexpr):
    """Round an fp32 tile to `dtype`, to nearest even, for a store."""
    if INTERPRETED and dtype == tl.bfloat16:
        x = _nearest_bf16(x).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        x = x.to(dtype)
    return x


@device
def _nearest_bf16(x):
    """Round each fp32 pattern to its upper half, to nearest even, as uint32; infinities stay, NaN stays NaN."""
    bits = x.to(tl.uint32, bitcast=True)
    # Half a unit, less one where the kept part is even: a tie then carries into odd patterns only.
    nearest = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    return tl.where(x == x, nearest, 0x7FC0).to(tl.uint32)
