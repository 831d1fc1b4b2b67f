"""Dropout: mutants of which weights are dropped, and of what is divided by what."""

from torch import Tensor

from fa2verify.kernels.problem import Dense, Problem
from mutants.flash import Mutation, Sequence


class RelativeIndex(Mutation):
    """Under a causal mask the backward counts queries from the first tile that it visits; the forward is right."""

    name = "dropout index not absolute"
    source = "xformers 755"
    shows = Problem(
        lengths=Dense(seqlen_q=64, seqlen_k=64),
        head_dim=8,
        causal="bottom_right",
        dropout=0.5,
        direction="forward_backward",
    )

    def dropped_backward(self, sequence: Sequence, weights: Tensor, i: int, j: int) -> Tensor:
        return self.dropped(sequence, weights, i - self.first_query_tile(sequence, j), j)


class NormalisedAfter(Mutation):
    """The normaliser sums the weights that dropout left."""

    name = "normaliser after dropout"
    source = "nki-samples 80"
    shows = Problem(lengths=Dense(seqlen_k=4), head_dim=8, dropout=0.5)

    def summed(self, p: Tensor, weights: Tensor) -> Tensor:
        return weights


class NoDropoutOnGradient(Mutation):
    """Dropout is missing on dP."""

    name = "no dropout on dP"
    source = "nki-samples 81"
    shows = Problem(lengths=Dense(seqlen_q=2, seqlen_k=4), head_dim=8, dropout=0.5, direction="forward_backward")

    def dropped_gradient(self, sequence: Sequence, dp: Tensor, i: int, j: int) -> Tensor:
        return dp


DROPOUTS = (RelativeIndex, NormalisedAfter, NoDropoutOnGradient)
