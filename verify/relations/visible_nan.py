"""Whether a NaN that a query sees reaches its row of out, and stays where arithmetic carries it.

A NaN in the output is how a broken layer before is noticed. A kernel whose maximum or comparison drops NaN scores gives
plausible numbers instead, and no drawn value is NaN. One is put into q, k or v, in turn by the problem's seed, at one
place that is seen. Whatever the order of sums, then in that sequence and for the heads that read that key head:

- q[i]: row i of out is NaN; other rows stay finite.
- k[j]: rows that see key j are NaN.
- v[j, c]: column c of the rows that see key j is NaN; other columns stay finite.

lse is not finite where a score is NaN; which of NaN and infinity is the kernel's choice (flash-attention 2 gives +inf).

Not asked: rows that do not see the key, of v its column there, may be NaN, since a mask may be added to scores, and a
weight of 0 times NaN is NaN. Nor what infinity does, which may make a weight 0. Nor dropout, which may multiply by 0 or
not read. Other sequences and key heads are `fa2verify.verify.relations.foreign_values`' question.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fa2verify.kernels.mask import visible
from fa2verify.kernels.problem import Problem
from fa2verify.kernels.tensors import make_tensors
from fa2verify.kernels.values import Stream
from fa2verify.reports.record import OutputName
from fa2verify.verify.judgement.judge import Breach
from fa2verify.verify.relations.relation import Call, form_breach

RULE = "R4 visible NaN"
ROLES = ("q", "k", "v")


@dataclass(frozen=True, slots=True)
class Place:
    """Where the NaN is, and who sees it.

    role      "q", "k" or "v"
    sequence  index in the batch
    token     query or key, within the sequence
    head      key head; of "q" query head
    column    of head_dim
    seen_by   queries of the sequence whose scores (of "v": weights) have to do with it: bool (seqlen_q)
    """

    role: str
    sequence: int
    token: int
    head: int
    column: int
    seen_by: Tensor

    @classmethod
    def of(cls, problem: Problem) -> "Place | None":
        """The problem's place, a function of its seed alone; None if no query sees a key."""
        role = ROLES[problem.seed % len(ROLES)]
        lengths = zip(problem.seqlens_q, problem.seqlens_k, strict=True)
        masks = [visible(problem, q, k, torch.device("cpu")) for q, k in lengths]
        found = [
            (sequence, int(token))
            for sequence, mask in enumerate(masks)
            for token in mask.any(1 if role == "q" else 0).nonzero()[:, 0]
        ]
        if not found:
            return None
        # A stream that no tensor of the problem is drawn from.
        drawn = [int(index) for index in Stream.of(problem.seed, 2**62).indices((3,))]
        sequence, token = found[drawn[0] % len(found)]
        head = drawn[1] % (problem.heads_q if role == "q" else problem.heads_kv)
        mask = masks[sequence]
        seen_by = torch.arange(mask.shape[0]) == token if role == "q" else mask[:, token]
        return cls(role, sequence, token, head, drawn[2] % problem.head_dim, seen_by)

    def heads(self, problem: Problem) -> slice:
        """The query heads that are judged: the one that has the NaN, or those that read the key head that has."""
        if self.role == "q":
            return slice(self.head, self.head + 1)
        return slice(self.head * problem.group, (self.head + 1) * problem.group)

    def judged(self, problem: Problem, name: OutputName, tensor: Tensor) -> Tensor:
        """Those rows and heads of an output that are judged: (seqlen_q, heads, head_dim), of lse without head_dim."""
        if problem.is_varlen:
            start, length = sum(problem.seqlens_q[: self.sequence]), problem.seqlens_q[self.sequence]
            tensor = tensor.narrow(-1 if name == "lse" else 0, start, length)
        else:
            tensor = tensor[self.sequence]
        return (tensor.T if name == "lse" else tensor)[:, self.heads(problem)]

    def index_of(self, problem: Problem, name: OutputName, where: tuple[int, ...]) -> list[int]:
        """Index in the output of an element of what `judged` gives."""
        row, head, *column = where
        head += self.heads(problem).start
        lead = [] if problem.is_varlen else [self.sequence]
        row += sum(problem.seqlens_q[: self.sequence]) if problem.is_varlen else 0
        return [*lead, head, row] if name == "lse" else [*lead, row, head, *column]

    def index(self, problem: Problem) -> tuple[int, ...]:
        """Index of the element in the tensor."""
        if not problem.is_varlen:
            return self.sequence, self.token, self.head, self.column
        lengths = problem.seqlens_q if self.role == "q" else problem.seqlens_k
        return sum(lengths[: self.sequence]) + self.token, self.head, self.column


def visible_nan(call: Call) -> Breach | None:
    """Call with one NaN, and look at the rows of its sequence and head. Raises what the kernel raises."""
    problem = replace(call.problem, direction="forward", deterministic=False)
    place = None if problem.dropout else Place.of(problem)
    if place is None or call.kernel.unsupported(problem):
        return None
    tensors = make_tensors(problem, call.tensors.q.device)
    poisoned: Tensor = getattr(tensors, place.role)
    poisoned[place.index(problem)] = float("nan")
    outputs = call.kernel(problem, tensors)
    for name in call.forward_owed:
        found: Any = getattr(outputs, name, None)
        if breach := form_breach(RULE, name, getattr(call.outputs, name), found, "a call with a NaN"):
            return breach
        if breach := _breach(call, place, name, found):
            return breach
    return None


def _breach(call: Call, place: Place, name: OutputName, found: Tensor) -> Breach | None:
    problem, seen_by = call.problem, place.seen_by.to(found.device)
    clean, part = (place.judged(problem, name, tensor) for tensor in (getattr(call.outputs, name), found))
    reached = seen_by.view(-1, *(1,) * (part.dim() - 1)).expand_as(part)
    possible = torch.full_like(reached, place.role != "q")
    if place.role == "v":
        column = torch.zeros_like(reached)
        if name == "out":
            column[..., place.column] = True
        reached, possible = reached & column, column
    lost = reached & (part.isfinite() if name == "lse" else ~part.isnan())
    spread = ~reached & ~possible & clean.isfinite() & ~part.isfinite()
    nan = f"{place.role}{list(place.index(problem))} is NaN"
    for wrong, words in ((lost, f"where {nan}, and seen"), (spread, f"not {{:.6g}}: {nan}, and does not reach it")):
        if bool(wrong.any()):
            where = tuple(int(i) for i in wrong.nonzero()[0])
            index, value = place.index_of(problem, name, where), float(part[where])
            told = words.format(float(clean[where]))
            return f"{RULE} {name}", f"{name}{index} is {value:.6g}, {told} ({int(wrong.sum())} such elements)"
    return None
