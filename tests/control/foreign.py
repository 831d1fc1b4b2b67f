"""Kernels as a stranger would hand them over, for runs of the whole suite: the right one, and ones that misbehave.

Forward alone, but for the right one: what a process dies of does not depend on the direction, and takes half the time.
"""

import ctypes
import time

import torch
from plain import attention
from torch import Tensor

from fa2verify.kernels.kernel import Kernel, Outputs
from fa2verify.kernels.problem import Problem
from fa2verify.kernels.tensors import Tensors


def right(q: Tensor, k: Tensor, v: Tensor, softmax_scale: float | None = None, causal: bool = False) -> Tensor:
    return attention(q, k, v, softmax_scale=softmax_scale, causal=causal)  # type: ignore[return-value]


def slow(q: Tensor, k: Tensor, v: Tensor, softmax_scale: float | None = None, causal: bool = False) -> Tensor:
    """Slow enough to be killed half way."""
    time.sleep(0.2)
    return right(q, k, v, softmax_scale, causal)


def wraps(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Writes of more than 64 rows to where the first ones are."""
    out = torch.full_like(right(q, k, v), float("nan"))
    out[:, torch.arange(q.shape[1]) % 64] = right(q, k, v)
    return out


def segfaults(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    if k.shape[1] > 16:
        ctypes.string_at(0)
    return right(q, k, v)


def hangs(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Without ever giving the interpreter's lock back."""
    while True:
        ctypes.PyDLL(None).sleep(60)


class OneKey(Kernel):
    """It takes a single key, so that out is v whatever the score is, if it is a number."""

    name, lineage = "one-key", "test"

    def unavailable(self, device: torch.device) -> tuple[str, ...]:
        return ()

    def unsupported(self, problem: Problem) -> tuple[str, ...]:
        if set(problem.seqlens_k) != {1} or problem.causal or problem.window != (-1, -1) or problem.dropout:
            return ("It takes one key, and no mask.",)
        if problem.tail:
            return ("It takes no rows past the last sequence.",)
        return ("It has no backward.",) if problem.backward else ()

    def __call__(self, problem: Problem, tensors: Tensors) -> Outputs:
        q = tensors.q
        k, v = (tensor.repeat_interleave(problem.group, -2) for tensor in (tensors.k, tensors.v))
        if problem.is_varlen:
            lengths = torch.tensor(problem.seqlens_q)
            k, v = (tensor.repeat_interleave(lengths, 0) for tensor in (k, v))
        # 1, and NaN where the score is.
        weight = (0 * (q.float() * k.float()).sum(-1, keepdim=True)).exp()
        return Outputs((weight * v).to(q.dtype))


for _function in (wraps, segfaults, hangs):
    _function.differentiable = False  # type: ignore[attr-defined]
