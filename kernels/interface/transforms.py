"""Attention under transforms of functions: torch.func.grad, vjp, jacrev and vmap.

An operator's own gradient is out of their reach: torch takes a `torch.autograd.Function` through its transforms only
where it is called, not within a dispatch, which is where it is cheapest and where the operators have theirs. So while
a transform is active a call goes through the two functions here, around the operators. A sample of a vmap is a call of
its own. There is no second derivative and no forward-mode one; both are refused.
"""

from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

NO_SECOND = "attention has no second derivative: its backward is not differentiable"


def active() -> bool:
    """Whether the innermost transform of functions is one to which a call must be shown as a function."""
    if not torch._C._are_functorch_transforms_active():
        return False
    # It rewrites operators, and knows no functions.
    return bool(torch._C._functorch.peek_interpreter_stack().key() != torch._C._functorch.TransformType.Functionalize)


class TransformedAttention(torch.autograd.Function):
    """The operator `forward`, whose gradients are the operator `backward`'s."""

    # Both ways consist of operators, for which torch has a rule: to call them once for each sample.
    generate_vmap_rule = True

    @staticmethod
    def forward(
        forward: OpOverload,
        backward: OpOverload,  # noqa: ARG004
        numbers: tuple[Any, ...],
        *tensors: Any,
    ) -> Any:
        """Run `forward`; `numbers` are its options that are no tensors."""
        return forward(*tensors, *numbers)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        """Save what `backward` takes."""
        _, ctx.operator, ctx.numbers, q, k, v, *options = inputs
        ctx.save_for_backward(q, k, v, *output, *options)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, dout: Tensor | None, dlse: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of q, k and v, those that are needed."""
        q, k, v, out, lse, *options = ctx.saved_tensors
        needs_q, needs_k, needs_v = ctx.needs_input_grad[3:6]
        inputs = (dout, dlse, q, k, v, out, lse, needs_q, needs_k or needs_v, *options, *ctx.numbers)
        dq, dk, dv = _TransformedGradients.apply(ctx.operator, *inputs)  # type: ignore[no-untyped-call]
        found = (dq if needs_q else None, dk if needs_k else None, dv if needs_v else None)
        return None, None, None, *found, *(None,) * len(options)


class _TransformedGradients(torch.autograd.Function):
    """The operator `backward`, which has no derivative."""

    generate_vmap_rule = True

    @staticmethod
    def forward(backward: OpOverload, *inputs: Any) -> Any:
        """Run `backward`."""
        return backward(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Save nothing."""

    @staticmethod
    def backward(ctx: Any, *_: Any) -> None:
        """Raise NotImplementedError."""
        raise NotImplementedError(NO_SECOND)
