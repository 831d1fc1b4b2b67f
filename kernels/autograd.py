"""Outputs of a differentiable forward function, its gradients taken by autograd."""

from collections.abc import Callable

import torch
from torch import Tensor

from fa2verify.kernels.kernel import Outputs
from fa2verify.kernels.problem import Problem
from fa2verify.kernels.tensors import Tensors

Forward = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor | None]]


def differentiate(forward: Forward, problem: Problem, tensors: Tensors) -> Outputs:
    """Call `forward(q, k, v) -> (out, lse or None)` and, if the problem asks for it, take the gradients for `dout`."""
    if not problem.backward:
        with torch.no_grad():
            out, lse = forward(tensors.q, tensors.k, tensors.v)
        return Outputs(out, lse)
    inputs = [tensor.detach().requires_grad_() for tensor in (tensors.q, tensors.k, tensors.v)]
    with torch.enable_grad():
        out, lse = forward(*inputs)
    dq, dk, dv = torch.autograd.grad(out, inputs, tensors.dout)
    return Outputs(out.detach(), None if lse is None else lse.detach(), dq, dk, dv)
