"""Kernels that are a differentiable forward function: their gradients are autograd's."""

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from fa2verify.kernels.kernel import Kernel, Outputs
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


class AutogradKernel(Kernel):
    """A kernel given by its forward alone, so that forward and backward can also be called, and timed, apart."""

    @abstractmethod
    def forward_of(self, problem: Problem, tensors: Tensors) -> Forward:
        """The function of (q, k, v) that computes `problem`; of `tensors` it takes everything but q, k and v."""

    def __call__(self, problem: Problem, tensors: Tensors) -> Outputs:
        """Call the forward and, if the problem asks for it, its gradients. Raises what they raise."""
        return differentiate(self.forward_of(problem, tensors), problem, tensors)
