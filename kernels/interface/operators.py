"""A backend's kernels as torch operators: with fake implementations and autograd, for torch.compile and CUDA graphs.

They are defined with `Library.define` and `Library.impl`, which cost a call about half of what
`torch.library.custom_op` does. Everything is allocated here, through torch, and nothing waits for the device.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from fa2verify.kernels.interface import transforms
from fa2verify.kernels.interface.backend import Backend
from fa2verify.kernels.interface.call import Call
from fa2verify.kernels.interface.signature import MOST
from fa2verify.kernels.interface.transforms import NO_SECOND, TransformedAttention

_OPTIONS = (
    "Tensor? cu_seqlens_q, Tensor? cu_seqlens_k, Tensor? alibi_slopes, Tensor? dropout_seed, SymInt max_seqlen_q, "
    "SymInt max_seqlen_k, str? causal, SymInt window_left, SymInt window_right, float? softmax_scale, float softcap, "
    "float dropout_p, bool deterministic"
)
_TENSORS = 3 + _OPTIONS.count("Tensor?")
_SCHEMAS = (
    f"forward(Tensor q, Tensor k, Tensor v, {_OPTIONS}) -> (Tensor out, Tensor lse)",
    "backward(Tensor? dout, Tensor? dlse, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, bool needs_dq, "
    f"bool needs_dkdv, {_OPTIONS}) -> (Tensor dq, Tensor dk, Tensor dv)",
    f"probabilities(Tensor q, Tensor k, Tensor lse, {_OPTIONS}) -> Tensor",
)
# flash-attn's S_dmask is padded to multiples of this.
_WEIGHTS_MULTIPLE = 128


class Unavailable(ValueError):
    """A backend cannot run on the tensors' device; the message says why."""


class Operators:
    """The operators `fa2verify_NAME::forward`, `backward` and `probabilities` of one backend.

    Define them once a process and backend: operators are global to torch.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._available: set[torch.device] = set()
        namespace = f"fa2verify_{backend.name}"
        # Operators live as long as their library object.
        self._library = torch.library.Library(namespace, "DEF")  # type: ignore[no-untyped-call]
        implementations: tuple[tuple[str, Callable[..., Any], Callable[..., Any]], ...] = (
            ("forward", self._forward, allocate_forward),
            ("backward", self._backward, allocate_backward),
            ("probabilities", self._probabilities, allocate_probabilities),
        )
        for schema, (name, run, allocate) in zip(_SCHEMAS, implementations, strict=True):
            self._library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))  # type: ignore[no-untyped-call]
            for key in ("CPU", "CUDA"):
                self._library.impl(name, run, key)  # type: ignore[no-untyped-call]
            torch.library.register_fake(f"{namespace}::{name}", allocate, lib=self._library)
        operators = getattr(torch.ops, namespace)
        self.forward = operators.forward.default
        self.backward = operators.backward.default
        self.probabilities = operators.probabilities.default
        # What register_autograd would put here costs a call three times as much.
        self._library.impl("forward", self._attend, "Autograd", with_keyset=True)  # type: ignore[no-untyped-call]
        # Without it torch would take the gradients for constants, and say so in a warning only.
        self._library.impl("backward", self._differentiate, "Autograd", with_keyset=True)  # type: ignore[no-untyped-call]

    def attend(self, *inputs: Any) -> Any:
        """The operator `forward`, called past autograd where that has nothing to do: it would cost as much again."""
        if not torch.compiler.is_compiling() and transforms.active():
            tensors, numbers = inputs[:_TENSORS], inputs[_TENSORS:]
            return TransformedAttention.apply(self.forward, self.backward, numbers, *tensors)  # type: ignore[no-untyped-call]
        return _past_autograd(self.forward, inputs)

    def _attend(self, keys: torch._C.DispatchKeySet, *inputs: Any) -> Any:
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*inputs):
            return _Attention.apply(self, keys, inputs[_TENSORS:], *inputs[:_TENSORS])  # type: ignore[no-untyped-call]
        return _below_autograd(self.forward, keys, inputs)

    def _differentiate(self, keys: torch._C.DispatchKeySet, *inputs: Any) -> Any:
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*inputs):
            return _Gradients.apply(self.backward, keys, *inputs)  # type: ignore[no-untyped-call]
        return _below_autograd(self.backward, keys, inputs)

    def _require(self, device: torch.device) -> None:
        if device in self._available:
            return
        reasons = self._backend.unavailable(device)
        if reasons:
            raise Unavailable(f"q is on {device}, where {self._backend.name} cannot run: {'; '.join(reasons)}")
        self._available.add(device)

    def _forward(self, q: Tensor, k: Tensor, v: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
        self._require(q.device)
        q, k, v = _rows(q), _rows(k), _rows(v)
        out, lse = allocate_forward(q, k, v, *options)
        self._backend.forward(make_call(q, k, *options), q, k, v, out, lse)
        return out, lse

    def _backward(
        self,
        dout: Tensor | None,
        dlse: Tensor | None,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        needs_dq: bool,
        needs_dkdv: bool,
        *options: Any,
    ) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = _rows(q), _rows(k), _rows(v)
        gradients = allocate_backward(dout, dlse, q, k, v, out, lse, needs_dq, needs_dkdv, *options)
        dout = torch.zeros_like(out) if dout is None else _rows(dout)
        if dlse is not None:
            dlse = dlse.contiguous()
        dq, dk, dv = gradients
        self._backend.backward(
            make_call(q, k, *options),
            q,
            k,
            v,
            out,
            lse,
            dout,
            dlse,
            dq if needs_dq else None,
            dk if needs_dkdv else None,
            dv if needs_dkdv else None,
            deterministic=options[-1],
        )
        return gradients

    def _probabilities(self, q: Tensor, k: Tensor, lse: Tensor, *options: Any) -> Tensor:
        self._require(q.device)
        q, k = _rows(q), _rows(k)
        weights = allocate_probabilities(q, k, lse, *options)
        self._backend.probabilities(make_call(q, k, *options), q, k, lse, weights)
        return weights


def _below_autograd(operator: OpOverload, keys: torch._C.DispatchKeySet, inputs: tuple[Any, ...]) -> Any:
    with torch._C._AutoDispatchBelowAutograd():
        return operator.redispatch(keys & torch._C._after_autograd_keyset, *inputs)


def _past_autograd(operator: OpOverload, inputs: tuple[Any, ...]) -> Any:
    """Call an operator; what torch traces, and transforms of functions (torch.func), go the whole way."""
    if (
        torch.compiler.is_compiling()
        or (torch.is_grad_enabled() and torch._C._any_requires_grad(*inputs))
        or torch._C._are_functorch_transforms_active()
    ):
        return operator(*inputs)
    with torch._C._AutoDispatchBelowAutograd():
        return operator(*inputs)


class _Attention(torch.autograd.Function):
    """The operator `forward`, whose gradients are the operator `backward`'s."""

    @staticmethod
    def forward(
        ctx: Any, operators: Operators, keys: torch._C.DispatchKeySet, numbers: tuple[Any, ...], *tensors: Any
    ) -> Any:
        """Run `forward` and save what `backward` takes; `numbers` are its options that are no tensors.

        They are one argument because each costs time.
        """
        q, k, v, *options = tensors
        out, lse = _below_autograd(operators.forward, keys, (*tensors, *numbers))
        ctx.save_for_backward(q, k, v, out, lse, *options)
        ctx.operators, ctx.numbers = operators, numbers
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    def backward(ctx: Any, dout: Tensor | None, dlse: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of q, k and v, those that are needed."""
        q, k, v, out, lse, *options = ctx.saved_tensors
        needs_q, needs_k, needs_v = ctx.needs_input_grad[3:6]
        needs_kv = needs_k or needs_v
        inputs = (dout, dlse, q, k, v, out, lse, needs_q, needs_kv, *options, *ctx.numbers)
        dq, dk, dv = _past_autograd(ctx.operators.backward, inputs)
        found = (dq if needs_q else None, dk if needs_k else None, dv if needs_v else None)
        return None, None, None, *found, *(None,) * len(options)


class _Gradients(torch.autograd.Function):
    """The operator `backward`, which has no derivative."""

    @staticmethod
    def forward(ctx: Any, backward: OpOverload, keys: torch._C.DispatchKeySet, *inputs: Any) -> Any:  # noqa: ARG004
        """Run `backward`."""
        return _below_autograd(backward, keys, inputs)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> None:
        """Raise NotImplementedError."""
        raise NotImplementedError(NO_SECOND)


def _rows(tensor: Tensor) -> Tensor:
    """`tensor` with a contiguous last dimension.

    A gradient of out may come without, and so does what torch makes of its zero tensors on their way here.
    """
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def make_call(
    q: Tensor,
    k: Tensor,
    cu_seqlens_q: Tensor | None,
    cu_seqlens_k: Tensor | None,
    alibi_slopes: Tensor | None,
    dropout_seed: Tensor | None,
    *numbers: Any,
) -> Call:
    """The call that an operator's options describe."""
    if cu_seqlens_q is None and alibi_slopes is None and dropout_seed is None:
        return _plain_call(q.shape, k.shape, None, *numbers)
    plain = _plain_call(q.shape, k.shape, None if cu_seqlens_q is None else cu_seqlens_q.shape[0] - 1, *numbers)
    return replace(
        plain,
        cu_seqlens_q=cu_seqlens_q,
        cu_seqlens_k=cu_seqlens_k,
        alibi_slopes=alibi_slopes,
        dropout_seed=dropout_seed,
        without=plain,
    )


@lru_cache(maxsize=MOST)
def _plain_call(
    q_shape: torch.Size,
    k_shape: torch.Size,
    packed_batch: int | None,
    max_seqlen_q: int,
    max_seqlen_k: int,
    causal: Any,
    window_left: int,
    window_right: int,
    softmax_scale: float | None,
    softcap: float,
    dropout_p: float,
    deterministic: bool,  # noqa: ARG001 -- one of the operators' options, which are passed on as they are
) -> Call:
    """The call without its tensors, kept by signature: see `fa2verify.kernels.interface.signature`."""
    head_dim = q_shape[-1]
    return Call(
        batch=q_shape[0] if packed_batch is None else packed_batch,
        # Packed, a length is at most all rows: a caller's bound above that would only launch empty programs.
        seqlen_q=q_shape[1] if packed_batch is None else min(max_seqlen_q, q_shape[0]),
        seqlen_k=k_shape[1] if packed_batch is None else min(max_seqlen_k, k_shape[0]),
        heads_q=q_shape[-2],
        heads_kv=k_shape[-2],
        head_dim=head_dim,
        causal=causal,
        scale=1 / math.sqrt(head_dim) if softmax_scale is None else softmax_scale,
        window=(window_left, window_right),
        softcap=max(softcap, 0.0),
        dropout=dropout_p,
    )


def allocate_forward(q: Tensor, k: Tensor, v: Tensor, *options: Any) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    """(out, lse) of the right shapes; packed, the rows past the last sequence have their values."""
    total_or_batch, heads = q.shape[0], q.shape[-2]
    if options[0] is not None:
        lse = q.new_full((heads, total_or_batch), float("-inf"), dtype=torch.float32)
        return q.new_zeros(q.shape), lse
    lse = q.new_empty((total_or_batch, heads, q.shape[1]), dtype=torch.float32)
    return torch.empty_like(q, memory_format=torch.contiguous_format), lse


def allocate_backward(
    dout: Tensor | None,  # noqa: ARG001
    dlse: Tensor | None,  # noqa: ARG001
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,  # noqa: ARG001
    lse: Tensor,  # noqa: ARG001
    needs_dq: bool,
    needs_dkdv: bool,
    *options: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """(dq, dk, dv) of the right shapes, empty where not needed; packed, rows past the last sequence are zero."""
    new = torch.empty_like if options[0] is None else torch.zeros_like

    def like(tensor: Tensor, needed: bool) -> Tensor:
        return new(tensor, memory_format=torch.contiguous_format) if needed else tensor.new_empty(0)

    return like(q, needs_dq), like(k, needs_dkdv), like(v, needs_dkdv)


def allocate_probabilities(q: Tensor, k: Tensor, lse: Tensor, *options: Any) -> Tensor:  # noqa: ARG001
    """Zeros (batch, heads_q, seqlen_q, seqlen_k), both lengths rounded up to a multiple of 128.

    Packed, a length is at most all rows, as it is for the kernels: a caller's bound above that would only take memory.
    """
    offsets, max_seqlen_q, max_seqlen_k = options[0], options[4], options[5]
    batch = q.shape[0] if offsets is None else offsets.shape[0] - 1
    lengths = (q.shape[1], k.shape[1])
    if offsets is not None:
        # torch's, not Python's, minimum: while torch.compile traces, it stays a symbol instead of choosing one.
        least: Callable[[int, int], int] = torch.sym_min
        lengths = (least(max_seqlen_q, q.shape[0]), least(max_seqlen_k, k.shape[0]))
    padded = [-(-length // _WEIGHTS_MULTIPLE) * _WEIGHTS_MULTIPLE for length in lengths]
    return q.new_zeros((batch, q.shape[-2], *padded))
