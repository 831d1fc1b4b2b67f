"""Concurrency and memory: mutants that hold what a race leaves behind, or write where they must not.

Some write past the memory of a tensor, for real: call them by `fa2verify.verify.trial.call.call`, which leaves room
there.

A race is a matter of time, and PyTorch on a CPU has none; here its usual outcome is planted. That the emulator finds
the missing barrier itself is tested on the CUDA source.
"""

import ctypes
from dataclasses import replace

import torch
from torch import Tensor

from fa2verify.kernels.kernel import Outputs
from fa2verify.kernels.problem import Dense, Problem
from fa2verify.kernels.tensors import Tensors
from mutants.flash import TILE, Mutation, Sequence


class Overwritten(Mutation):
    """Without a barrier, the first rows of the next tile of K land in the current one before it is read."""

    name = "next K tile over the current one"
    source = "FA 359"
    shows = Problem(lengths=Dense(seqlen_k=64), head_dim=8)

    def key_tile(self, sequence: Sequence, j: int) -> Tensor:
        current = sequence.k[:, j : j + TILE]
        following = sequence.k[:, j + TILE : j + TILE + 4]
        return torch.cat([following, current[:, following.shape[1] :]], 1)


class RingOfTwo(Mutation):
    """K has two buffers of 64 keys, and the copy into one that was read is not waited for: its old tile again."""

    name = "third K tile is the first again"
    source = "no issue of its own"
    shows = Problem(lengths=Dense(seqlen_k=4 * TILE + 1), head_dim=8)

    def key_tile(self, sequence: Sequence, j: int) -> Tensor:
        return super().key_tile(sequence, j - 4 * TILE if j >= 4 * TILE else j)


class EarlyDelta(Mutation):
    """The backward starts before D of the later query tiles is written; dQ and dK are wrong, dV is right."""

    name = "D read before it is written"
    source = "FA 2481"
    shows = Problem(lengths=Dense(seqlen_q=33, seqlen_k=2), head_dim=8, direction="forward_backward")

    def delta(self, sequence: Sequence, out: Tensor) -> Tensor:
        written = super().delta(sequence, out)
        written[:, TILE:] = 0
        return written


class BeforeTheFirst(Mutation):
    """An atomic at index -1: all outputs are right, and what lies before a tensor is not what it was."""

    name = "atomic at index -1"
    source = "FA 2755"
    shows = Problem(head_dim=8, layout="offset")

    def returned(self, problem: Problem, tensors: Tensors, outputs: Outputs) -> Outputs:
        before = tensors.q.storage_offset() - 1
        if before >= 0:
            torch.as_strided(tensors.q, (1,), (1,), before).zero_()
        return outputs


class PastTheLast(Mutation):
    """The last tile is written whole: rows past the end of Q, where a larger tensor holds it."""

    name = "write past the last row"
    source = "flashinfer 3978"
    shows = Problem(lengths=Dense(seqlen_q=2, seqlen_k=2), head_dim=8, layout="qkv_packed")

    def returned(self, problem: Problem, tensors: Tensors, outputs: Outputs) -> Outputs:
        memory = torch.empty(0, dtype=tensors.q.dtype).set_(tensors.q.untyped_storage())
        last = tensors.q.storage_offset() + sum(
            (length - 1) * stride for length, stride in zip(tensors.q.shape, tensors.q.stride(), strict=True)
        )
        if tensors.q.numel():
            memory[last + 1 : last + 9].zero_()
        return outputs


class BeforeTheWorkspace(Mutation):
    """The same in memory that is no input's: a lock is counted up one place in front of the locks."""

    name = "atomic before the workspace"
    source = "FA 2755"
    shows = Problem(head_dim=8)

    def read(self, problem: Problem, tensors: Tensors) -> Tensors:
        locks = torch.zeros(problem.batch, dtype=torch.int32)
        ctypes.c_int32.from_address(locks.data_ptr() - locks.element_size()).value += 1
        return tensors


class PastTheEndOfOut(Mutation):
    """O gets one row too many, past the end of its memory."""

    name = "write past the end of O"
    source = "flashinfer 3978"
    shows = Problem(head_dim=8)

    def read(self, problem: Problem, tensors: Tensors) -> Tensors:
        # Before any other memory: a call has only so many red zones, and beyond them this would hit the heap.
        self._out = torch.empty(tensors.q.shape, dtype=tensors.q.dtype)
        return tensors

    def returned(self, problem: Problem, tensors: Tensors, outputs: Outputs) -> Outputs:
        out = self._out.copy_(outputs.out)
        row = out.shape[-2] * out.shape[-1] * out.element_size()
        if out.numel():
            ctypes.memset(out.data_ptr() + out.numel() * out.element_size(), 0, row)
        return replace(outputs, out=out)


MEMORY = (Overwritten, RingOfTwo, EarlyDelta, BeforeTheFirst, PastTheLast, BeforeTheWorkspace, PastTheEndOfOut)
