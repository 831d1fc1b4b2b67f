"""The one correct kernel that every mutant differs from in one place: FlashAttention-2, tile by tile, in PyTorch.

It does on a CPU what the shipped kernels do on a GPU, so that a shipped bug can be planted where it was: it finds its
tensors by strides, pads the last tile of a sequence with zeros, masks what it padded, writes into memory that it found
full of NaN, skips tiles that a causal mask hides in the backward, and rounds where they round. Algorithms 1 and 2 of
arXiv 2307.08691. A mutant overrides one of the methods below, each of which is one decision of a kernel.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fa2verify.kernels.dropout import kept
from fa2verify.kernels.kernel import Kernel, Outputs, ScoreDtype
from fa2verify.kernels.problem import Problem
from fa2verify.kernels.tensors import TORCH_DTYPE, Tensors

TILE = 32  # queries, and keys, of a tile
_MINUS_INFINITY = float("-inf")


@dataclass(frozen=True)
class Sequence:
    """One sequence of the batch, loaded: fp32, rows padded with zeros to whole tiles, key heads repeated.

    index     in the batch
    seqlen_q  queries without padding
    seqlen_k  keys without padding
    q, dout   (heads_q, padded seqlen_q, head_dim)
    k, v      (heads_q, padded seqlen_k, head_dim)
    slopes    ALiBi, (heads_q), or None
    keep      dropout's factor, (heads_q, padded seqlen_q, padded seqlen_k), or None
    """

    problem: Problem
    index: int
    seqlen_q: int
    seqlen_k: int
    q: Tensor
    k: Tensor
    v: Tensor
    dout: Tensor
    slopes: Tensor | None
    keep: Tensor | None

    def rounded(self, tensor: Tensor) -> Tensor:
        """Through the problem's dtype."""
        return tensor.to(TORCH_DTYPE[self.problem.dtype]).float()


def padded(tensor: Tensor, value: float = 0.0) -> Tensor:
    """Rows, the last dimension but one, filled up with `value` to whole tiles."""
    missing = -tensor.shape[-2] % TILE
    return torch.nn.functional.pad(tensor, (0, 0, 0, missing), value=value)


def tiles(length: int) -> range:
    """Where the tiles of `length` rows begin."""
    return range(0, length, TILE)


class Flash(Kernel):
    """FlashAttention-2, forward and backward; correct."""

    name: str = "flash"
    lineage = "control: mutants"
    gives_lse = True
    score_dtype: ScoreDtype = "fp32"
    batch_invariant = True  # sequence by sequence

    def unavailable(self, device: torch.device) -> tuple[str, ...]:
        return ()

    def unsupported(self, problem: Problem) -> tuple[str, ...]:
        return ()

    # The call

    def __call__(self, problem: Problem, tensors: Tensors) -> Outputs:
        seen = self.read(problem, tensors)
        sequences = [self.load(problem, seen, index) for index in range(problem.batch)]
        out, lse = self.allocate(tensors.q), self.allocate_rows(problem, tensors)
        self.clear_tail(problem, out, "q")
        for sequence, (o, rows) in zip(sequences, self.forward(sequences), strict=True):
            self.store(problem, out, sequence, "q", o)
            self.rows_of(problem, lse, sequence.index).copy_(rows[:, : sequence.seqlen_q])
        if not problem.backward:
            return self.returned(problem, tensors, Outputs(out, lse))
        dq, dk, dv = (self.allocate(tensor) for tensor in (tensors.q, tensors.k, tensors.v))
        self.clear_tails(problem, dq, dk, dv)
        read_out = self.read_out(problem, tensors, out)
        for sequence in sequences:
            o = padded(self.part(problem, read_out, sequence.index, "q").transpose(0, 1).float())
            rows = self.rows_of(problem, lse, sequence.index)
            found = self.backward(sequence, o, self.padded_lse(rows))
            self.store(problem, dq, sequence, "q", found[0])
            self.store_keys(problem, dk, sequence, self.over_group(problem, found[1]))
            self.store_keys(problem, dv, sequence, self.over_group(problem, found[2]))
        return self.returned(problem, tensors, Outputs(out, lse, dq, dk, dv))

    def read(self, problem: Problem, tensors: Tensors) -> Tensors:
        """The inputs as the kernel's strides find them."""
        return tensors

    def read_out(self, problem: Problem, tensors: Tensors, out: Tensor) -> Tensor:
        """O as the backward's strides find it."""
        return out

    def allocate(self, like: Tensor) -> Tensor:
        """Memory of the shape of `like`, with what memory may hold."""
        return torch.full(like.shape, float("nan"), dtype=like.dtype)

    def allocate_rows(self, problem: Problem, tensors: Tensors) -> Tensor:
        """Memory for lse."""
        if problem.is_varlen:
            rows = torch.full((problem.heads_q, tensors.q.shape[0]), float("nan"))
            rows[:, sum(problem.seqlens_q) :] = _MINUS_INFINITY
            return rows
        return torch.full((problem.batch, problem.heads_q, tensors.q.shape[1]), float("nan"))

    def clear_tail(self, problem: Problem, tensor: Tensor, side: str) -> None:
        """Rows past the last sequence of a packed tensor; `side` is "q" or "k"."""
        if problem.is_varlen:
            tensor[sum(problem.seqlens_q if side == "q" else problem.seqlens_k) :] = 0

    def clear_tails(self, problem: Problem, dq: Tensor, dk: Tensor, dv: Tensor) -> None:
        """The same of the gradients."""
        for tensor, side in ((dq, "q"), (dk, "k"), (dv, "k")):
            self.clear_tail(problem, tensor, side)

    def returned(self, problem: Problem, tensors: Tensors, outputs: Outputs) -> Outputs:
        """What the caller gets."""
        return outputs

    # Where a sequence lies

    def span(self, problem: Problem, index: int, side: str) -> slice:
        """Rows of a sequence in a varlen tensor; `side` is "q" or "k"."""
        lengths = problem.seqlens_q if side == "q" else problem.seqlens_k
        start = sum(lengths[:index])
        return slice(start, start + lengths[index])

    def part(self, problem: Problem, tensor: Tensor, index: int, side: str) -> Tensor:
        """One sequence of a tensor: (seqlen, heads, head_dim)."""
        return tensor[self.span(problem, index, side)] if problem.is_varlen else tensor[index]

    def rows_of(self, problem: Problem, lse: Tensor, index: int) -> Tensor:
        """One sequence of lse: (heads_q, seqlen_q)."""
        return lse[:, self.span(problem, index, "q")] if problem.is_varlen else lse[index]

    def load(self, problem: Problem, tensors: Tensors, index: int) -> Sequence:
        q, dout = (self.part(problem, tensor, index, "q").transpose(0, 1) for tensor in (tensors.q, tensors.dout))
        k, v = (
            self.part(problem, tensor, index, "k").transpose(0, 1).repeat_interleave(problem.group, 0)
            for tensor in (tensors.k, tensors.v)
        )
        seqlen_q, seqlen_k = q.shape[1], k.shape[1]
        q, k, v, dout = (padded(tensor.float()) for tensor in (q, k, v, dout))
        slopes = tensors.alibi_slopes
        if slopes is not None and slopes.dim() == 2:
            slopes = slopes[index]
        keep = None
        if problem.dropout:
            mask = kept(problem, index, q.shape[1], k.shape[1], q.device)
            keep = mask.float() / (1 - problem.dropout)
        return Sequence(problem, index, seqlen_q, seqlen_k, q, k, v, dout, slopes, keep)

    def store(self, problem: Problem, into: Tensor, sequence: Sequence, side: str, tensor: Tensor) -> None:
        """Write (heads, padded seqlen, head_dim) to its sequence's rows."""
        part = self.part(problem, into, sequence.index, side)
        part.copy_(tensor[:, : part.shape[0]].transpose(0, 1))

    def store_keys(self, problem: Problem, into: Tensor, sequence: Sequence, tensor: Tensor) -> None:
        """Write dK or dV, (heads_kv, padded seqlen_k, head_dim)."""
        self.store(problem, into, sequence, "k", tensor)

    # Scores

    def products(self, sequence: Sequence, i: int, j: int) -> Tensor:
        """Q K^T of the tile at query i and key j: (heads_q, TILE, TILE)."""
        return sequence.q[:, i : i + TILE] @ self.key_tile(sequence, j).mT

    def key_tile(self, sequence: Sequence, j: int) -> Tensor:
        """K in shared memory."""
        return sequence.k[:, j : j + TILE]

    def raw_scores(self, sequence: Sequence, i: int, j: int) -> Tensor:
        """Scaled scores before softcap, bias and mask."""
        return self.products(sequence, i, j) * sequence.problem.softmax_scale

    def capped(self, sequence: Sequence, i: int, j: int) -> Tensor:
        """Scores before the mask."""
        s, cap = self.raw_scores(sequence, i, j), sequence.problem.softcap
        if cap:
            s = torch.tanh(s / cap) * cap
        if sequence.slopes is not None:
            rows, columns = self.places(i, j)
            away = (columns - rows - (self.diagonal(sequence))).abs()
            s = s - sequence.slopes[:, None, None] * away
        return s

    def scores(self, sequence: Sequence, i: int, j: int) -> Tensor:
        """Scores of the forward."""
        return self.capped(sequence, i, j).masked_fill(~self.visible(sequence, i, j), _MINUS_INFINITY)

    def scores_backward(self, sequence: Sequence, i: int, j: int) -> Tensor:
        """Scores as the backward computes them again."""
        return self.capped(sequence, i, j).masked_fill(~self.visible_backward(sequence, i, j), _MINUS_INFINITY)

    # Masks

    def places(self, i: int, j: int) -> tuple[Tensor, Tensor]:
        """Queries (TILE, 1) and keys (TILE) of a tile."""
        return torch.arange(i, i + TILE)[:, None], torch.arange(j, j + TILE)

    def diagonal(self, sequence: Sequence) -> int:
        """Query index plus this is the key on its diagonal."""
        return 0 if sequence.problem.causal == "top_left" else sequence.seqlen_k - sequence.seqlen_q

    def window(self, problem: Problem) -> tuple[int, int]:
        """(left, right), -1 meaning unbounded; causal is a right of 0."""
        left, right = problem.window
        return (left, 0) if problem.causal is not None else (left, right)

    def visible(self, sequence: Sequence, i: int, j: int) -> Tensor:
        """Whether query i sees key j: (TILE, TILE)."""
        return self.in_window(sequence, i, j) & self.in_bounds(sequence, i, j)

    def visible_backward(self, sequence: Sequence, i: int, j: int) -> Tensor:
        """The same, in the backward."""
        return self.visible(sequence, i, j)

    def in_bounds(self, sequence: Sequence, i: int, j: int) -> Tensor:
        """Whether the key is no padding."""
        return self.places(i, j)[1] < sequence.seqlen_k

    def in_window(self, sequence: Sequence, i: int, j: int) -> Tensor:
        """Whether causal mask and sliding window show the key."""
        rows, columns = self.places(i, j)
        away = columns - rows - self.diagonal(sequence)
        left, right = self.window(sequence.problem)
        shown = torch.ones_like(away, dtype=torch.bool)
        if left >= 0:
            shown &= away >= -left
        if right >= 0:
            shown &= away <= right
        return shown

    # Forward

    def forward(self, sequences: list[Sequence]) -> Iterable[tuple[Tensor, Tensor]]:
        """O (heads_q, padded seqlen_q, head_dim) and lse (heads_q, padded seqlen_q) of every sequence."""
        return [self.attend(sequence) for sequence in sequences]

    def attend(self, sequence: Sequence) -> tuple[Tensor, Tensor]:
        out, lse = torch.zeros_like(sequence.q), torch.zeros(sequence.q.shape[:-1])
        for i in tiles(sequence.seqlen_q):
            rows = slice(i, i + TILE)
            out[:, rows], lse[:, rows] = self.attend_tile(sequence, i, tiles(sequence.seqlen_k))
        return out, lse

    def attend_tile(self, sequence: Sequence, i: int, starts: Iterable[int]) -> tuple[Tensor, Tensor]:
        """One tile of queries over the key tiles at `starts`."""
        shape = (sequence.q.shape[0], TILE)
        top = torch.full(shape, _MINUS_INFINITY)
        total, acc = torch.zeros(shape), torch.zeros(*shape, sequence.q.shape[-1])
        for j in starts:
            s = self.scores(sequence, i, j)
            higher = torch.maximum(top, s.amax(-1))
            base = higher.masked_fill(higher == _MINUS_INFINITY, 0.0)
            p, shrink = torch.exp(s - base[..., None]), torch.exp(top - base)
            weights = self.dropped(sequence, p, i, j)
            total = total * shrink + self.summed(p, weights).sum(-1)
            acc = acc * shrink[..., None] + sequence.rounded(weights) @ sequence.v[:, j : j + TILE]
            top = higher
        return self.normalised(acc, total), self.lse(sequence, top, total)

    def dropped(self, sequence: Sequence, weights: Tensor, i: int, j: int) -> Tensor:
        """Dropout, by absolute positions."""
        if sequence.keep is None:
            return weights
        return weights * sequence.keep[:, i : i + TILE, j : j + TILE]

    def summed(self, p: Tensor, weights: Tensor) -> Tensor:
        """What the normaliser sums: before dropout."""
        return p

    def normalised(self, acc: Tensor, total: Tensor) -> Tensor:
        """O; 0 where nothing was seen."""
        return acc / total.masked_fill(total == 0, 1.0)[..., None]

    def lse(self, sequence: Sequence, top: Tensor, total: Tensor) -> Tensor:
        """Natural log of the sum of exponentials."""
        return top + total.log()

    # Backward

    def padded_lse(self, rows: Tensor) -> Tensor:
        """Lse (heads_q, padded seqlen_q); what makes P vanish in padding and where nothing is visible."""
        found = padded(rows[..., None], float("inf"))[..., 0]
        return found.masked_fill(found == _MINUS_INFINITY, float("inf"))

    def backward(self, sequence: Sequence, out: Tensor, lse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """dQ, and each query head's dK and dV: (heads_q, padded seqlen, head_dim)."""
        dq, dk, dv = (torch.zeros_like(tensor) for tensor in (sequence.q, sequence.k, sequence.v))
        d, scale = self.delta(sequence, out), sequence.problem.softmax_scale
        for j in tiles(sequence.seqlen_k):
            keys = slice(j, j + TILE)
            for i in self.query_tiles(sequence, j):
                rows = slice(i, i + TILE)
                p = torch.exp(self.scores_backward(sequence, i, j) - lse[:, rows, None])
                weights = self.dropped_backward(sequence, p, i, j)
                dp = self.dropped_gradient(sequence, sequence.dout[:, rows] @ sequence.v[:, keys].mT, i, j)
                ds = sequence.rounded(self.through_softcap(sequence, p * (dp - d[:, rows, None]), i, j))
                dv[:, keys] += sequence.rounded(weights).mT @ sequence.dout[:, rows]
                dk[:, keys] += scale * (ds.mT @ sequence.q[:, rows])
                dq[:, rows] += scale * (ds @ sequence.k[:, keys])
        return dq, dk, dv

    def delta(self, sequence: Sequence, out: Tensor) -> Tensor:
        """D = rowsum(dO O), (heads_q, padded seqlen_q)."""
        return (sequence.dout * out).sum(-1)

    def first_query_tile(self, sequence: Sequence, j: int) -> int:
        """Where the first tile begins that sees the key tile at j."""
        if sequence.problem.causal is None:
            return 0
        return max(j - self.diagonal(sequence), 0) // TILE * TILE

    def query_tiles(self, sequence: Sequence, j: int) -> Iterable[int]:
        """The query tiles that see anything of the key tile at j."""
        return range(self.first_query_tile(sequence, j), sequence.seqlen_q, TILE)

    def dropped_backward(self, sequence: Sequence, weights: Tensor, i: int, j: int) -> Tensor:
        """Dropout of P, or of its gradient, in the backward."""
        return self.dropped(sequence, weights, i, j)

    def dropped_gradient(self, sequence: Sequence, dp: Tensor, i: int, j: int) -> Tensor:
        """Dropout of dP."""
        return self.dropped_backward(sequence, dp, i, j)

    def through_softcap(self, sequence: Sequence, ds: Tensor, i: int, j: int) -> Tensor:
        """Gradient of the softcap."""
        cap = sequence.problem.softcap
        return ds * (1 - torch.tanh(self.raw_scores(sequence, i, j) / cap) ** 2) if cap else ds

    def over_group(self, problem: Problem, heads: Tensor) -> Tensor:
        """Sum over the query heads of each key head: (heads_q, ...) to (heads_kv, ...)."""
        return heads.reshape(problem.heads_kv, problem.group, *heads.shape[1:]).sum(1)


class Mutation(Flash):
    """A mutant: the fault is its docstring.

    source  project and issue
    shows   a problem that shows it
    """

    source: ClassVar[str]
    shows: ClassVar[Problem]
