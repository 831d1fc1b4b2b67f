"""Checks of what a caller gives: each names the argument, what it was and what is accepted.

They look at types, shapes, strides and devices, never at values in GPU memory, which would wait for the device. On the
CPU, where it costs nothing, the values of cu_seqlens are checked too.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import forward_ad

from fa2verify.kernels.interface.call import MAX_SEQLEN
from fa2verify.kernels.interface.memory import check_memory

DTYPES = (torch.float16, torch.bfloat16)
DENSE = ("batch", "seqlen", "heads", "head_dim")
PACKED = ("total", "heads", "head_dim")
# A score of fp16 tensors, 65504^2 * 256 at most, times this and log2(e) is below 2^128: it is finite in fp32.
MAX_SCALE = 1e26
# What s / c loses where fp32 flushes it to zero, 2^-126, is below 2^-26 once multiplied by a c of at most this.
MAX_SOFTCAP = 1e30


def check_strided(name: str, tensor: object, accepted: str) -> Tensor:
    """A torch.Tensor whose elements lie in memory at strides, neither nested nor sparse; gives it back."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} is {_type(tensor)}; it must be {accepted}")
    # A nested tensor of layout torch.strided has no shape to ask for.
    if tensor.is_nested:
        raise ValueError(f"{name} is a nested tensor; it must be {accepted}")
    if tensor.layout != torch.strided:
        raise ValueError(f"{name} has layout {tensor.layout}; it must be dense, torch.strided: {accepted}")
    check_memory(name, tensor)
    return tensor


def check_tensor(name: str, given: object, dimensions: tuple[str, ...], max_head_dim: int) -> None:
    """A q, k, v or packed tensor: fp16 or bf16, of these dimensions (a digit is that size), head_dim contiguous."""
    described = f"({', '.join(dimensions)})"
    tensor = check_strided(name, given, f"a torch.Tensor of shape {described}")
    if tensor.ndim != len(dimensions) or any(
        expected.isdecimal() and size != int(expected) for expected, size in zip(dimensions, tensor.shape, strict=True)
    ):
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; it must be {described}")
    if tensor.dtype not in DTYPES:
        raise ValueError(f"{name} has dtype {tensor.dtype}; it must be float16 or bfloat16")
    if not 1 <= tensor.shape[-1] <= max_head_dim:
        raise ValueError(f"{name} has head_dim {tensor.shape[-1]}; it must be 1 to {max_head_dim}")
    if tensor.shape[-2] < 1:
        raise ValueError(f"{name} has {tensor.shape[-2]} heads; it must have at least 1")
    if tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
        raise ValueError(
            f"{name} has strides {tensor.stride()}; its last dimension must be contiguous: call .contiguous()"
        )
    if any(size > MAX_SEQLEN for size in tensor.shape[:-2]):
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; a length must be at most {MAX_SEQLEN}")


def check_agreement(q: Tensor, k: Tensor, v: Tensor, k_name: str = "k", v_name: str = "v") -> None:
    """Q, k and v, each checked alone, fit one another; `k_name` and `v_name` are what the caller knows them by."""
    for name, tensor in ((k_name, k), (v_name, v)):
        if tensor.dtype != q.dtype:
            raise ValueError(f"{name} has dtype {tensor.dtype} and q {q.dtype}; they must be equal")
        if tensor.device != q.device:
            raise ValueError(f"{name} is on {tensor.device} and q on {q.device}; they must be on one device")
        if tensor.shape[-1] != q.shape[-1]:
            raise ValueError(f"{name} has head_dim {tensor.shape[-1]} and q {q.shape[-1]}; they must be equal")
    if k.shape != v.shape:
        raise ValueError(f"{k_name} has shape {tuple(k.shape)} and {v_name} {tuple(v.shape)}; they must be equal")
    if q.ndim == len(DENSE) and q.shape[0] != k.shape[0]:
        raise ValueError(f"{k_name} has batch {k.shape[0]} and q {q.shape[0]}; they must be equal")
    if q.shape[-2] % k.shape[-2]:
        raise ValueError(f"q has {q.shape[-2]} heads and {k_name} {k.shape[-2]}; q's must be a multiple of {k_name}'s")


def check_offsets(name: str, given: object, longest_name: str, longest: object, tensor_name: str, x: Tensor) -> None:
    """cu_seqlens and the max_seqlen that goes with it, for the packed tensor `x`."""
    offsets = check_strided(name, given, "an int32 torch.Tensor of shape (batch + 1,)")
    if offsets.dtype != torch.int32:
        raise ValueError(f"{name} has dtype {offsets.dtype}; it must be int32")
    if offsets.ndim != 1 or offsets.shape[0] < 2:
        raise ValueError(f"{name} has shape {tuple(offsets.shape)}; it must be (batch + 1,) with a batch of at least 1")
    if not offsets.is_contiguous():
        raise ValueError(f"{name} has strides {offsets.stride()}; it must be contiguous: call .contiguous()")
    if offsets.device != x.device:
        raise ValueError(f"{name} is on {offsets.device} and {tensor_name} on {x.device}; they must be on one device")
    if isinstance(longest, bool) or not isinstance(longest, int | torch.SymInt):
        raise TypeError(f"{longest_name} is {_type(longest)}; it must be an int, the length of the longest sequence")
    if not 0 <= longest <= MAX_SEQLEN:
        raise ValueError(f"{longest_name} is {longest}; it must be 0 to {MAX_SEQLEN}")
    check_values(name, offsets, longest_name, longest, tensor_name, x.shape[0])


def check_values(
    name: str, offsets: Tensor, longest_name: str, longest: int | torch.SymInt, tensor_name: str, total: int
) -> None:
    """On the CPU: cu_seqlens begin with 0, do not decrease, end within `total` rows, and max_seqlen holds for them."""
    if offsets.device.type != "cpu" or torch.compiler.is_compiling() or isinstance(offsets, FakeTensor):
        return
    begins: list[int] = offsets.tolist()
    if begins[0] != 0:
        raise ValueError(f"{name} begins with {begins[0]}; it must begin with 0")
    lengths = [end - begin for begin, end in pairwise(begins)]
    for index, length in enumerate(lengths):
        if length < 0:
            raise ValueError(
                f"{name} falls from {begins[index]} to {begins[index + 1]} at index {index + 1}; it must not decrease"
            )
    if begins[-1] > total:
        raise ValueError(f"{name} ends with {begins[-1]}; it must be at most the {total} rows of {tensor_name}")
    if max(lengths) > int(longest):
        raise ValueError(f"{longest_name} is {int(longest)}; it must be at least {max(lengths)}, the longest of {name}")


def check_batches(q_name: str, offsets_q: Tensor, k_name: str, offsets_k: Tensor) -> None:
    """Both cu_seqlens are of one batch."""
    if offsets_q.shape[0] != offsets_k.shape[0]:
        raise ValueError(
            f"{q_name} has {offsets_q.shape[0]} entries and {k_name} {offsets_k.shape[0]}; both must have batch + 1"
        )


def check_alibi(given: object, batch: int, heads: int, device: torch.device) -> None:
    """alibi_slopes is None or fp32 (heads,) or (batch, heads) on `device`; no gradient is computed for it."""
    if given is None:
        return
    accepted = f"float32 ({heads},) or ({batch}, {heads}), per head or per batch and head"
    slopes = check_strided("alibi_slopes", given, f"None or a torch.Tensor, {accepted}")
    if slopes.dtype != torch.float32:
        raise ValueError(f"alibi_slopes has dtype {slopes.dtype}; it must be {accepted}")
    if tuple(slopes.shape) not in ((heads,), (batch, heads)):
        raise ValueError(f"alibi_slopes has shape {tuple(slopes.shape)}; it must be {accepted}")
    if slopes.device != device:
        raise ValueError(f"alibi_slopes is on {slopes.device} and q on {device}; they must be on one device")
    if heads > 1 and slopes.stride(-1) != 1:
        raise ValueError(f"alibi_slopes has strides {slopes.stride()}; its last dimension must be contiguous")
    check_no_gradient("alibi_slopes", slopes)


def check_no_gradient(name: str, tensor: Tensor) -> None:
    """No gradient is asked for that is not computed."""
    if tensor.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{name} requires a gradient, which is not computed; pass {name}.detach()")


def check_number(name: str, value: object, accepted: str, low: float, high: float) -> None:
    """A real number in [low, high); NaN is in no range."""
    if isinstance(value, bool) or not isinstance(value, int | float | torch.SymFloat | torch.SymInt):
        raise TypeError(f"{name} is {_type(value)}; it must be {accepted}")
    if not low <= value < high:
        raise ValueError(f"{name} is {value}; it must be {accepted}")


def check_scale(softmax_scale: object) -> None:
    """None or a number by which fp16 scores stay finite."""
    if softmax_scale is not None:
        check_number("softmax_scale", softmax_scale, "None or a number from -1e26 to 1e26", -MAX_SCALE, MAX_SCALE)


def check_softcap(softcap: object) -> None:
    """A number that leaves scores as exact as fp32 has them; 0 and below mean no softcap."""
    check_number("softcap", softcap, "a number from -1e30 to 1e30; 0 and below mean none", -MAX_SOFTCAP, MAX_SOFTCAP)


def check_dropout(dropout_p: object) -> None:
    """A probability below 1."""
    check_number("dropout_p", dropout_p, "a probability in [0, 1)", 0, 1)


def check_window(window_size: object) -> None:
    """Two ints, each -1 (unbounded) or a number of keys."""
    accepted = "(left, right), two ints, each at least -1, which means unbounded"
    if isinstance(window_size, str | bytes) or not isinstance(window_size, Sequence):
        raise TypeError(f"window_size is {_type(window_size)}; it must be {accepted}")
    if len(window_size) != 2:
        raise ValueError(f"window_size is {window_size!r}; it must be {accepted}")
    for side in window_size:
        if isinstance(side, bool) or not isinstance(side, int | torch.SymInt):
            raise TypeError(f"window_size is {window_size!r}; it must be {accepted}")
        if side < -1:
            raise ValueError(f"window_size is {window_size!r}; it must be {accepted}")


def check_seed(given: object, device: torch.device) -> None:
    """dropout_seed is None or one int64 on `device`."""
    if given is None:
        return
    accepted = f"int64 (1,) on {device}"
    seed = check_strided("dropout_seed", given, f"None or a torch.Tensor, {accepted}")
    if seed.dtype != torch.int64 or seed.shape != (1,) or seed.device != device:
        raise ValueError(f"dropout_seed is {seed.dtype} {tuple(seed.shape)} on {seed.device}; it must be {accepted}")


def check_derivatives(**tensors: Tensor | None) -> None:
    """No derivative is asked for that would be lost: forward-mode, or a backward through inference tensors.

    torch itself raises RuntimeError for the second, after the forward ran, and drops the first without a word.
    """
    if torch.compiler.is_compiling():
        return
    saved = False
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if forward_ad.unpack_dual(tensor).tangent is not None:  # type: ignore[no-untyped-call]
            raise ValueError(
                f"{name} has a forward-mode tangent, which is not computed; it must have none: use reverse mode"
            )
        saved = saved or tensor.requires_grad
    if saved and torch.is_grad_enabled():
        for name, tensor in tensors.items():
            if tensor is not None and tensor.is_inference():
                raise ValueError(f"{name} is an inference tensor, which no backward may save; pass {name}.clone()")


def check_flag(name: str, value: object) -> None:
    """A bool, not merely something true: a window or a scale in the wrong position is an error, not causal."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} is {_type(value)}; it must be a bool")


def _type(value: object) -> str:
    return (
        f"{value!r}, of type {type(value).__name__}" if isinstance(value, str | int | float) else type(value).__name__
    )
