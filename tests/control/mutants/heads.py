"""Heads and indexing: mutants that confuse which head reads or writes where."""

from dataclasses import replace

import torch
from torch import Tensor

from fa2verify.kernels.problem import Dense, Problem
from fa2verify.kernels.tensors import Tensors
from mutants.flash import Mutation, Sequence


class NoBijection(Mutation):
    """Two key heads write dK and dV to one slot, and every second slot keeps what fresh memory holds."""

    name = "head map no bijection"
    source = "native-sparse-attention-triton 27"
    shows = Problem(
        lengths=Dense(seqlen_q=2, seqlen_k=2), heads_q=2, heads_kv=2, head_dim=8, direction="forward_backward"
    )

    def store_keys(self, problem: Problem, into: Tensor, sequence: Sequence, tensor: Tensor) -> None:
        stored = torch.zeros_like(tensor)
        for head in range(problem.heads_kv):
            stored[head // 2 * 2] = tensor[head]
        super().store_keys(problem, into, sequence, stored)


class LastOfGroup(Mutation):
    """Query heads of one key head overwrite each other's dK and dV instead of adding to them."""

    name = "gradients not summed over the group"
    source = "no issue of its own"
    shows = Problem(lengths=Dense(seqlen_q=2, seqlen_k=2), heads_q=2, head_dim=8, direction="forward_backward")

    def over_group(self, problem: Problem, heads: Tensor) -> Tensor:
        return heads.reshape(problem.heads_kv, problem.group, *heads.shape[1:])[:, -1]


class HeadModulo(Mutation):
    """Query head h reads key head h % heads_kv: the same as h // group where either is 1."""

    name = "key heads in turn"
    source = "no issue of its own"
    shows = Problem(heads_q=4, heads_kv=2, head_dim=8)

    def load(self, problem: Problem, tensors: Tensors, index: int) -> Sequence:
        sequence = super().load(problem, tensors, index)
        read = torch.arange(problem.heads_q) % problem.heads_kv * problem.group
        return replace(sequence, k=sequence.k[read], v=sequence.v[read])


HEADS = (NoBijection, LastOfGroup, HeadModulo)
