"""Strides: mutants that find their elements at the wrong place."""

from dataclasses import replace

import torch
from torch import Tensor

from fa2verify.kernels.problem import Dense, Problem
from fa2verify.kernels.tensors import Tensors
from mutants.flash import Mutation


def found_by(tensor: Tensor, strides: tuple[int, ...]) -> Tensor:
    """The elements that `strides` find from a tensor's first one on; NaN beyond the end of its memory."""
    memory = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
    place = torch.full((1,) * tensor.dim(), int(tensor.storage_offset()))
    for axis, (length, stride) in enumerate(zip(tensor.shape, strides, strict=True)):
        steps = torch.arange(length) * stride
        place = place + steps.reshape(-1, *(1,) * (tensor.dim() - 1 - axis))
    if not memory.numel():
        return tensor
    return torch.where(place < memory.numel(), memory[place.clamp(max=memory.numel() - 1)], float("nan"))


def contiguous_strides(tensor: Tensor) -> tuple[int, ...]:
    """The strides that a packed tensor of that shape has."""
    return torch.empty(tensor.shape, device="meta").stride()


def as_contiguous(tensors: Tensors) -> Tensors:
    """Inputs as they are found by who takes them for contiguous."""
    q, k, v, dout = (
        found_by(each, contiguous_strides(each)) for each in (tensors.q, tensors.k, tensors.v, tensors.dout)
    )
    return replace(tensors, q=q, k=k, v=v, dout=dout)


class StridesOfDout(Mutation):
    """The backward reads O with the strides of dO."""

    name = "O read with the strides of dO"
    source = "FA 355"
    shows = Problem(lengths=Dense(seqlen_q=2, seqlen_k=2), head_dim=8, layout="sliced", direction="forward_backward")

    def read_out(self, problem: Problem, tensors: Tensors, out: Tensor) -> Tensor:
        return found_by(out, tensors.dout.stride())


class ContiguousAt256(Mutation):
    """At head_dim 256 alone, inputs are taken for contiguous."""

    name = "contiguous at head_dim 256"
    source = "FA 2665, 2541"
    shows = Problem(lengths=Dense(seqlen_q=2), head_dim=256, layout="sliced")

    def read(self, problem: Problem, tensors: Tensors) -> Tensors:
        return as_contiguous(tensors) if problem.head_dim == 256 else tensors


class FixedOnce(Mutation):
    """Strided inputs are made contiguous when a variant is compiled, and not when it is found in the cache."""

    name = "no fix-up when cached"
    source = "FA 2886"
    shows = Problem(lengths=Dense(seqlen_q=2), head_dim=8, layout="sliced")

    def __init__(self) -> None:
        self._compiled: set[object] = set()

    def variant(self, problem: Problem) -> object:
        """What a compiled variant is kept under."""
        return problem.dtype, problem.head_dim, problem.causal, problem.is_varlen

    def read(self, problem: Problem, tensors: Tensors) -> Tensors:
        variant = self.variant(problem)
        if variant in self._compiled:
            return as_contiguous(tensors)
        self._compiled.add(variant)
        return tensors


class FixedOnceByShape(FixedOnce):
    """The same where a variant is kept for each shape and each set of strides."""

    name = "no fix-up when cached by shape"

    def variant(self, problem: Problem) -> object:
        shape = problem.lengths, problem.heads_q, problem.heads_kv, problem.layout
        return super().variant(problem), shape


class StridesOfQ(Mutation):
    """K and V are read with the strides of Q, as they are where one tensor packs all three."""

    name = "strides of packed QKV for split ones"
    source = "TransformerEngine 1195"
    shows = Problem(lengths=Dense(seqlen_q=2, seqlen_k=2), head_dim=8, layout="kv_packed")

    def read(self, problem: Problem, tensors: Tensors) -> Tensors:
        if problem.group > 1:
            return tensors
        strides = tensors.q.stride()
        return replace(tensors, k=_rows(tensors.k, strides), v=_rows(tensors.v, strides))


def _rows(tensor: Tensor, strides: tuple[int, ...]) -> Tensor:
    """Found with these strides but the batch's, which depends on the length."""
    return found_by(tensor, (*tensor.stride()[:-3], *strides[-3:]))


STRIDES = (StridesOfDout, ContiguousAt256, FixedOnce, FixedOnceByShape, StridesOfQ)
