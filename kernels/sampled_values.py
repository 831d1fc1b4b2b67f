"""Values "sampled": those of a problem that is too large to be drawn element by element, and to be judged whole.

Rows of randn repeat along the tokens of all sequences. How many there are is a prime: an index that wraps at a power
of two, and so is off by a power of two of rows, or by a part of a row, finds other values. The gradient of out is 0
outside of `fa2verify.kernels.sample`, so that the gradients of the sample are those of the sample alone, and all others
are exactly 0.
"""

import torch
from torch import Tensor

from fa2verify.kernels.problem import Problem
from fa2verify.kernels.sample import pieces_q, sample
from fa2verify.kernels.values import Role, draw

# About 2^21 elements are drawn for each tensor, some hundredths of a second.
_PRIMES = (65521, 32749, 16381, 8191, 4093, 2039, 1021, 509, 251, 127)
_ELEMENTS = 2**21


def fill_sampled(problem: Problem, q: Tensor, k: Tensor, v: Tensor, dout: Tensor) -> None:
    """Write the problem's values to tensors of its shapes and layout."""
    roles: tuple[tuple[Role, Tensor], ...] = (("q", q), ("k", k), ("v", v), ("dout", dout))
    for role, tensor in roles:
        _repeat(problem, role, tensor)
    segments = sample(problem)
    kept = [piece.clone() for piece in pieces_q(problem, dout, segments)]
    dout.zero_()
    for piece, values in zip(pieces_q(problem, dout, segments), kept, strict=True):
        piece.copy_(values)


def rows(elements: int) -> int:
    """After how many tokens values repeat, for tokens of so many elements."""
    return next((prime for prime in _PRIMES if prime * elements <= _ELEMENTS), _PRIMES[-1])


def _repeat(problem: Problem, role: Role, tensor: Tensor) -> None:
    heads, head_dim = tensor.shape[-2:]
    # A view: tokens lie one after the other in every layout that such a problem has.
    tokens = tensor.view(-1, heads, head_dim) if tensor.numel() else tensor.reshape(0, heads, head_dim)
    period = rows(heads * head_dim)
    # Rounded on the CPU: a device's own conversion is not part of what is verified.
    drawn = torch.from_numpy(draw("randn", problem.seed, role, 0, (period, heads, head_dim)))
    drawn = drawn.to(tensor.dtype).to(tensor.device)
    for part in torch.split(tokens, period):
        part.copy_(drawn[: len(part)])
