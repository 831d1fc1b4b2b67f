"""Empty, varlen, uninitialised: mutants of what happens where there is nothing to compute, or nothing was written."""

from torch import Tensor

from fa2verify.kernels.kernel import Outputs
from fa2verify.kernels.problem import Dense, Problem, Varlen
from fa2verify.kernels.tensors import Tensors
from mutants.flash import TILE, Mutation, Sequence, padded


class NoQuery(Mutation):
    """A sequence without queries leaves at once, and its dK and dV hold what the memory held."""

    name = "early exit without queries"
    source = "FA 2421"
    shows = Problem(lengths=Dense(seqlen_q=0), head_dim=8, direction="forward_backward")

    def store_keys(self, problem: Problem, into: Tensor, sequence: Sequence, tensor: Tensor) -> None:
        if sequence.seqlen_q:
            super().store_keys(problem, into, sequence, tensor)


class NoKey(Mutation):
    """A sequence without keys still writes its last tile of dK and dV, one before its first: into its neighbour's."""

    name = "write for an empty sequence"
    source = "FA a3a257c7"
    shows = Problem(lengths=Varlen(seqlens_q=(2, 1), seqlens_k=(2, 0)), head_dim=8, direction="forward_backward")

    def store_keys(self, problem: Problem, into: Tensor, sequence: Sequence, tensor: Tensor) -> None:
        super().store_keys(problem, into, sequence, tensor)
        if problem.is_varlen and not sequence.seqlen_k:
            start = self.span(problem, sequence.index, "k").start
            into[max(start - TILE, 0) : start] = 0


class RefusesNoKey(Mutation):
    """No key at all crashes."""

    name = "crash without keys"
    source = "FA 2470"
    shows = Problem(lengths=Dense(seqlen_k=0), head_dim=8)

    def read(self, problem: Problem, tensors: Tensors) -> Tensors:
        if not tensors.k.shape[-3]:
            raise RuntimeError("invalid configuration argument")
        return tensors


class DividesByQueries(Mutation):
    """The number of splits is the number of blocks over that of queries: division by zero."""

    name = "division by no queries"
    source = "FA 2515"
    shows = Problem(lengths=Dense(seqlen_q=0), head_dim=8)

    def read(self, problem: Problem, tensors: Tensors) -> Tensors:
        assert 128 // sum(problem.seqlens_q) >= 0
        return tensors


class UnwrittenPadding(Mutation):
    """The padding of lse is never written, and 0 * NaN reaches dK and dV."""

    name = "padding of lse unwritten"
    source = "tilelang 2461"
    shows = Problem(lengths=Dense(seqlen_q=2, seqlen_k=2), head_dim=8, direction="forward_backward")

    def padded_lse(self, rows: Tensor) -> Tensor:
        found = padded(rows[..., None], float("nan"))[..., 0]
        return found.masked_fill(found == float("-inf"), float("inf"))


class UnwrittenTail(Mutation):
    """Rows past the last cu_seqlens entry have no gradient written, and hold what the memory held."""

    name = "gradients past the last sequence unwritten"
    source = "FA 2324"
    shows = Problem(
        lengths=Varlen(seqlens_q=(1,), seqlens_k=(1,)), head_dim=8, layout="tail", direction="forward_backward"
    )

    def clear_tails(self, problem: Problem, dq: Tensor, dk: Tensor, dv: Tensor) -> None:
        return


class AllZero(Mutation):
    """Outputs are zeros, as memory fresh from the system is."""

    name = "all-zero outputs"
    source = "KernelBench 165"
    shows = Problem(head_dim=8)

    def returned(self, problem: Problem, tensors: Tensors, outputs: Outputs) -> Outputs:
        for tensor in (outputs.out, outputs.lse, outputs.dq, outputs.dk, outputs.dv):
            if tensor is not None:
                tensor.zero_()
        return outputs


EMPTIES = (NoQuery, NoKey, RefusesNoKey, DividesByQueries, UnwrittenPadding, UnwrittenTail, AllZero)
