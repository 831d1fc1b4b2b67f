"""Masks and edges: mutants that show a key which must not be seen, or hide one that must."""

from torch import Tensor

from fa2verify.kernels.problem import Dense, Problem, Varlen
from mutants.flash import TILE, Mutation, Sequence

_UNEQUAL = Dense(seqlen_q=2, seqlen_k=3)


class PaddedColumns(Mutation):
    """The backward does not mask columns past seqlen_k: there exp(0 - lse) overflows, and inf * 0 is NaN."""

    name = "padded columns in the backward"
    source = "FA 334"
    shows = Problem(head_dim=8, values="large", seed=2, direction="forward_backward")

    def visible_backward(self, sequence: Sequence, i: int, j: int) -> Tensor:
        return self.in_window(sequence, i, j)


class PaddedColumnsLater(PaddedColumns):
    """The same, from the second block of queries on."""

    name = "padded columns from the second query block"
    source = "FA 443"
    shows = Problem(
        lengths=Varlen(seqlens_q=(76,), seqlens_k=(1,)),
        head_dim=16,
        values="large",
        direction="forward_backward",
    )

    def visible_backward(self, sequence: Sequence, i: int, j: int) -> Tensor:
        return super().visible_backward(sequence, i, j) if i else self.visible(sequence, i, j)


class TopLeft(Mutation):
    """Top-left alignment where bottom-right was meant."""

    name = "top-left for bottom-right"
    source = "FA 282, 436"
    shows = Problem(lengths=_UNEQUAL, head_dim=8, causal="bottom_right")

    def diagonal(self, sequence: Sequence) -> int:
        return 0 if sequence.problem.causal else super().diagonal(sequence)


class RoundedDiagonal(Mutation):
    """The diagonal is that of lengths rounded up to tiles: wrong for unequal ones, and so was the verifier's."""

    name = "diagonal of padded lengths"
    source = "cutlass 2336"
    shows = Problem(lengths=_UNEQUAL, head_dim=8, causal="bottom_right")

    def diagonal(self, sequence: Sequence) -> int:
        if sequence.problem.causal != "bottom_right":
            return super().diagonal(sequence)
        return sequence.k.shape[1] - sequence.q.shape[1]


class WindowTooNarrow(Mutation):
    """The window's left end is exclusive."""

    name = "window one short"
    source = "transformers 39408, zml 763"
    shows = Problem(lengths=Dense(seqlen_q=3, seqlen_k=3), head_dim=8, window=(1, -1))

    def window(self, problem: Problem) -> tuple[int, int]:
        left, right = super().window(problem)
        return (left - 1 if left > 0 else left), right


class WindowTooWide(Mutation):
    """The window shows one key too many on its left."""

    name = "window one wide"
    source = "transformers 39408, zml 763"
    shows = Problem(lengths=Dense(seqlen_q=3, seqlen_k=3), head_dim=8, window=(1, -1))

    def window(self, problem: Problem) -> tuple[int, int]:
        left, right = super().window(problem)
        return (left + 1 if left >= 0 else left), right


class FullBackward(Mutation):
    """The backward ignores the causal mask."""

    name = "backward not causal"
    source = "triton 4541"
    shows = Problem(
        lengths=Dense(seqlen_q=2, seqlen_k=2), head_dim=8, causal="bottom_right", direction="forward_backward"
    )

    def visible_backward(self, sequence: Sequence, i: int, j: int) -> Tensor:
        if sequence.problem.causal is None:
            return self.visible(sequence, i, j)
        return self.in_bounds(sequence, i, j).expand(TILE, TILE)

    def first_query_tile(self, sequence: Sequence, j: int) -> int:
        return 0


class HeadDim64(Mutation):
    """Scores are summed over 64 columns, whatever the head dimension."""

    name = "head_dim hard-coded to 64"
    source = "triton 621"
    shows = Problem(lengths=Dense(seqlen_k=2), head_dim=128)

    def products(self, sequence: Sequence, i: int, j: int) -> Tensor:
        return sequence.q[:, i : i + TILE, :64] @ self.key_tile(sequence, j)[..., :64].mT


MASKS = (
    PaddedColumns,
    PaddedColumnsLater,
    TopLeft,
    RoundedDiagonal,
    WindowTooNarrow,
    WindowTooWide,
    FullBackward,
    HeadDim64,
)
