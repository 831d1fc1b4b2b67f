"""Relations between calls: mutants that are right in every call, within every bound, and wrong beside another call.

They are no part of `mutants.MUTANTS`: no rule on a single call sees any of them. That, and which relation does, is
shown in tests/verify/relations/test_catalogue.py.
"""

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from fa2verify.kernels.kernel import Outputs
from fa2verify.kernels.problem import Dense, Problem, Varlen
from fa2verify.kernels.tensors import Tensors
from mutants.flash import TILE, Mutation, Sequence
from mutants.splits import SplitFlash


class Arrival(Mutation):
    """Forward and gradients sum tiles in the order in which blocks arrive, asked for a deterministic backward or not.

    Here blocks arrive in another order at each call, turned by one, so that what is found can be found again.
    """

    name = "sums in order of arrival"
    source = "FA 2244"
    batch_invariant = False  # it does not even repeat
    shows = Problem(
        # lse shows it, being fp32: what another order changes is mostly lost as other sums are rounded to the dtype.
        # Three tiles have another order at the next call, and at the one after it.
        lengths=Dense(seqlen_q=16, seqlen_k=3 * TILE),
        head_dim=8,
        direction="forward_backward",
        deterministic=True,
    )

    def __init__(self) -> None:
        self._calls = 0

    def read(self, problem: Problem, tensors: Tensors) -> Tensors:
        self._calls += 1
        return tensors

    def arriving(self, starts: Iterable[int]) -> Iterable[int]:
        tiles = [*starts]
        turn = self._calls % max(len(tiles), 1)
        return tiles[turn:] + tiles[:turn]

    def attend_tile(self, sequence: Sequence, i: int, starts: Iterable[int]) -> tuple[Tensor, Tensor]:
        return super().attend_tile(sequence, i, self.arriving(starts))

    def query_tiles(self, sequence: Sequence, j: int) -> Iterable[int]:
        return self.arriving(super().query_tiles(sequence, j))


class LoadsOnward(Mutation):
    """The last tile of V is loaded up to the end of all sequences: the next one's rows, where zeros are meant.

    Their weight is 0.
    """

    name = "V of the next sequence"
    source = "FA 2374"
    shows = Problem(lengths=Varlen(seqlens_q=(1, 1), seqlens_k=(1, 1)), head_dim=8)

    def load(self, problem: Problem, tensors: Tensors, index: int) -> Sequence:
        sequence = super().load(problem, tensors, index)
        if not problem.is_varlen:
            return sequence
        start = self.span(problem, index, "k").start
        found = tensors.v[start : min(start + sequence.v.shape[1], sum(problem.seqlens_k))].transpose(0, 1).float()
        v = torch.zeros_like(sequence.v)
        v[:, : found.shape[1]] = found.repeat_interleave(problem.group, 0)
        return replace(sequence, v=v)


class DropsNaN(Mutation):
    """Maximum and weights are found by comparisons, which NaN fails: a NaN score weighs nothing."""

    name = "NaN scores weigh nothing"
    source = "docs/findings/sdpa-cpu-nan-becomes-zero.md"
    shows = Problem(head_dim=8)

    def scores(self, sequence: Sequence, i: int, j: int) -> Tensor:
        s = super().scores(sequence, i, j)
        return s.masked_fill(s.isnan(), float("-inf"))


class SplitsToFill(SplitFlash, Mutation):
    """Keys are split in two where the batch alone would not fill the device: a heuristic, and so another sum."""

    name = "splits by batch size"
    source = "pytorch 176905, pegainfer 613"
    shows = Problem(lengths=Dense(batch=2, seqlen_q=2, seqlen_k=2 * TILE), head_dim=8)

    def forward(self, sequences: list[Sequence]) -> Iterable[tuple[Tensor, Tensor]]:
        return super().forward(sequences) if len(sequences) == 1 else super(SplitFlash, self).forward(sequences)


class GivesOutTwice(Mutation):
    """Outputs of one shape are one memory, kept from call to call."""

    name = "one output for all calls"
    source = "no issue of its own"
    shows = Problem(lengths=Dense(batch=2), head_dim=8)

    def __init__(self) -> None:
        self._kept: dict[object, Tensor] = {}

    def returned(self, problem: Problem, tensors: Tensors, outputs: Outputs) -> Outputs:
        kept = self._kept.setdefault((outputs.out.shape, outputs.out.dtype), outputs.out)
        return replace(outputs, out=kept.copy_(outputs.out))


# To the relation that alone sees it.
RELATED: dict[str, type[Mutation]] = {
    "repetition": Arrival,
    "foreign values": LoadsOnward,
    "visible NaN": DropsNaN,
    "batch invariance": SplitsToFill,
    "kept results": GivesOutTwice,
}
