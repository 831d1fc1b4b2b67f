"""Split keys and lse: mutants of what combines the parts of a row, and of what is returned beside the output."""

from collections.abc import Iterable
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from fa2verify.kernels.kernel import Outputs
from fa2verify.kernels.problem import Dense, Problem, Varlen
from fa2verify.kernels.tensors import Tensors
from mutants.flash import TILE, Flash, Mutation, Sequence, tiles

_MINUS_INFINITY = float("-inf")


class SplitFlash(Flash):
    """The same with keys in two splits, whose partial results all lie in one workspace until they are combined."""

    name: str = "split-flash"
    splits: ClassVar[int] = 2

    def forward(self, sequences: list[Sequence]) -> Iterable[tuple[Tensor, Tensor]]:
        outs = [torch.zeros(self.splits, *sequence.q.shape) for sequence in sequences]
        lses = [torch.zeros(self.splits, *sequence.q.shape[:-1]) for sequence in sequences]
        for number, sequence in enumerate(sequences):
            starts = tiles(sequence.seqlen_k)
            share = max(1, -(-len(starts) // self.splits))
            for split in range(self.splits):
                own = starts[split * share : (split + 1) * share]
                if not own:
                    lses[self.slot(number)][split].fill_(_MINUS_INFINITY)
                    continue
                for i in tiles(sequence.seqlen_q):
                    rows = slice(i, i + TILE)
                    outs[number][split][:, rows], lses[number][split][:, rows] = self.attend_tile(sequence, i, own)
        return [self.combine(out, lse) for out, lse in zip(outs, lses, strict=True)]

    def slot(self, number: int) -> int:
        """Where a split without keys notes that it has none: sequence `number`'s place."""
        return number

    def combine(self, outs: Tensor, lses: Tensor) -> tuple[Tensor, Tensor]:
        """Weigh the splits by their share of the whole sum."""
        lse = torch.logsumexp(lses, 0)
        return self.weighed(outs, torch.exp(lses - self.finite(lse))), lse

    def weighed(self, outs: Tensor, shares: Tensor) -> Tensor:
        return (outs * shares[..., None]).sum(0)

    def finite(self, lse: Tensor) -> Tensor:
        """What splits are compared with: 0 where no split saw a key."""
        return lse.masked_fill(lse == _MINUS_INFINITY, 0.0)


class CombinesNothing(SplitFlash, Mutation):
    """All splits of a row are -inf, and combining them gives NaN."""

    name = "combine of empty splits"
    source = "FA 31920dda, 26d7d92f"
    shows = Problem(lengths=Dense(seqlen_q=2, seqlen_k=1), head_dim=8, causal="bottom_right")

    def finite(self, lse: Tensor) -> Tensor:
        return lse


class WrongSlot(SplitFlash, Mutation):
    """A split that has no keys writes its -inf into the first sequence's place."""

    name = "early exit into another's slot"
    source = "FA 2842"
    shows = Problem(lengths=Varlen(seqlens_q=(1, 1), seqlens_k=(64, 1)), head_dim=8)

    def slot(self, number: int) -> int:
        return 0


class FreedAccumulators(SplitFlash, Mutation):
    """The splits' accumulators are freed before they are read: lse, allocated next, gets their memory."""

    name = "accumulators freed early"
    source = "FA 1085"
    shows = Problem(lengths=Dense(seqlen_k=2), head_dim=8)

    def combine(self, outs: Tensor, lses: Tensor) -> tuple[Tensor, Tensor]:
        lse = super().combine(outs, lses)[1]
        outs.view(-1)[: lse.numel()] = lse.reshape(-1)
        return super().combine(outs, lses)


class ScaledTwice(Mutation):
    """The softmax scale is applied twice in lse; O is right."""

    name = "scale twice in lse"
    source = "flash-sparse-attention 106"
    shows = Problem(lengths=Dense(seqlen_k=2), head_dim=8)

    def returned(self, problem: Problem, tensors: Tensors, outputs: Outputs) -> Outputs:
        assert outputs.lse is not None
        return replace(outputs, lse=outputs.lse * problem.softmax_scale)


class Halved(Mutation):
    """Half of lse is returned."""

    name = "lse halved"
    source = "atoma-infer 166"
    shows = Problem(lengths=Dense(seqlen_k=2), head_dim=8)

    def returned(self, problem: Problem, tensors: Tensors, outputs: Outputs) -> Outputs:
        assert outputs.lse is not None
        return replace(outputs, lse=outputs.lse / 2)


class PackedHeads(Mutation):
    """Where a group's query heads are packed as rows, lse is returned as it lies there: heads inside rows."""

    name = "lse of packed heads"
    source = "vllm-flash-attention 87"
    shows = Problem(lengths=Dense(seqlen_q=2, seqlen_k=2), heads_q=2, head_dim=8)

    def returned(self, problem: Problem, tensors: Tensors, outputs: Outputs) -> Outputs:
        assert outputs.lse is not None
        *batch, _, rows = outputs.lse.shape
        packed = outputs.lse.reshape(*batch, problem.heads_kv, problem.group, rows).mT
        return replace(outputs, lse=packed.reshape(outputs.lse.shape))


SPLITS = (CombinesNothing, WrongSlot, FreedAccumulators, ScaledTwice, Halved, PackedHeads)
