"""How a problem's tensors lie in memory.

Kernels read strides wrongly (flash-attention 355: those of dO taken for O; TransformerEngine 1195: those of packed qkv
taken for split ones), so `sliced` has strides of its own for every tensor, the packed layouts for those they pack, and
whatever lies between the elements is NaN: a kernel that reads it shows it. So are the rows past the last sequence that
`tail` adds (flash-attention 2324).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fa2verify.kernels.problem import Problem

_GAP_ELEMENTS = 8  # 16 bytes: what `sliced` leaves behind each row and `offset` in front of each tensor


Place = Callable[[Tensor], Tensor]


def anywhere(tensor: Tensor) -> Tensor:
    """The tensor where torch has put it."""
    return tensor


def empty_like_layout(
    problem: Problem, device: torch.device, place: Place = anywhere
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tensors q, k, v and dout of the problem's shapes, dtype and layout, filled with NaN.

    place  moves a whole memory, packed neighbours and gaps included, to where it is to lie
    """
    q = _leading(problem, problem.seqlens_q)
    k = _leading(problem, problem.seqlens_k)
    heads_q, heads_kv, dim = problem.heads_q, problem.heads_kv, problem.head_dim
    dtype = getattr(torch, problem.dtype)

    def full(*shape: int) -> Tensor:
        return place(torch.full(shape, float("nan"), dtype=dtype, device=device))

    match problem.layout:
        case "plain" | "tail":
            return full(*q, heads_q, dim), full(*k, heads_kv, dim), full(*k, heads_kv, dim), full(*q, heads_q, dim)
        case "qkv_packed":
            packed = full(*q, 3, heads_q, dim)
            return *packed.unbind(-3), full(*q, heads_q, dim)  # type: ignore[return-value]
        case "kv_packed":
            packed = full(*k, 2, heads_kv, dim)
            return full(*q, heads_q, dim), packed.select(-3, 0), packed.select(-3, 1), full(*q, heads_q, dim)
        case "transposed":
            return tuple(  # type: ignore[return-value]
                full(*lead[:-1], heads, lead[-1], dim).transpose(-3, -2)
                for lead, heads in ((q, heads_q), (k, heads_kv), (k, heads_kv), (q, heads_q))
            )
        case "sliced":
            return tuple(  # type: ignore[return-value]
                full(*lead, heads, dim + gap * _GAP_ELEMENTS)[..., :dim]
                for gap, (lead, heads) in enumerate(((q, heads_q), (k, heads_kv), (k, heads_kv), (q, heads_q)), start=1)
            )
        case "offset":
            return tuple(  # type: ignore[return-value]
                _offset(full, (*lead, heads, dim), gap * _GAP_ELEMENTS)
                for gap, (lead, heads) in enumerate(((q, heads_q), (k, heads_kv), (k, heads_kv), (q, heads_q)), start=1)
            )


def _leading(problem: Problem, lengths: tuple[int, ...]) -> tuple[int, ...]:
    return (sum(lengths) + problem.tail,) if problem.is_varlen else (problem.batch, lengths[0])


def _offset(full: Callable[..., Tensor], shape: tuple[int, ...], elements: int) -> Tensor:
    return full(elements + math.prod(shape))[elements:].view(shape)
