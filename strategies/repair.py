"""From what was drawn to a problem that is supported and within its size, giving up as little as possible.

In this order: nothing; any one of the drawn options; any two; ever more; then the same with empty sequences filled and
with square lengths, since some kernels take some features only so. It ends at the plainest problem, which is supported,
so a draw is never rejected.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from fa2verify.kernels.problem import Problem
from fa2verify.strategies.heads import Grouping
from fa2verify.strategies.shapes import notable_lengths
from fa2verify.strategies.size import Pair, Size, Snap, fit_batch
from fa2verify.strategies.support import Support, Unsupported, lengths_of

# What a draw changes in the plainest problem: the axis' name to fields and their values.
Changes = Mapping[str, Mapping[str, Any]]
Pairs = tuple[Pair, ...]


@dataclass(frozen=True, slots=True)
class Repair:
    """Turns draws into problems that `unsupported` gives no reason against."""

    unsupported: Unsupported
    support: Support
    size: Size
    snap: Snap

    @classmethod
    def of(cls, unsupported: Unsupported, support: Support, size: Size) -> "Repair":
        """The repair for a kernel with `support`."""
        notable = frozenset(notable_lengths(size.max_seqlen))
        every = sorted({*support.lengths_q, *support.lengths_k})
        snap = Snap(every, [length for length in every if length in notable])
        return cls(unsupported, support, size, snap)

    def __call__(self, changes: Changes, pairs: Pairs, *, varlen: bool) -> Problem:
        """The problem as drawn, or the first supported one that gives as little of it up as possible.

        changes  what the draw changes in the plainest problem
        pairs    (seqlen_q, seqlen_k) of each sequence; a dense problem has as many sequences, all like the first
        """
        for attempt in self._attempts(changes, pairs, varlen=varlen):
            if attempt.scores <= self.size.max_scores and not self.unsupported(attempt):
                return attempt
        return self.support.plainest

    def _attempts(self, changes: Changes, pairs: Pairs, *, varlen: bool) -> Iterator[Problem]:
        yield self._assemble(changes, pairs, varlen=varlen)
        given_up = self._given_up(changes)
        filled = tuple((q or self.support.lengths_q[0], k or self.support.lengths_k[0]) for q, k in pairs)
        squared = tuple((min(pair), min(pair)) for pair in filled)
        for variant in dict.fromkeys((pairs, filled, squared)):
            for names in given_up:
                kept = {name: fields for name, fields in changes.items() if name not in names}
                yield self._assemble(kept, variant, varlen=varlen)
        for other in self.support.varlen:
            yield self._assemble({}, filled, varlen=other)
            yield self._assemble({}, squared, varlen=other)

    def _given_up(self, changes: Changes) -> list[tuple[str, ...]]:
        """Sets of axes to give up, the smallest first; of sets above two not all, or an attempt would take too long."""
        plainest = self.support.plainest
        names = [
            name
            for name, fields in changes.items()
            if any(getattr(plainest, field) != value for field, value in fields.items())
        ]
        return [
            (),
            *(chosen for count in (1, 2) for chosen in combinations(names, count)),
            *(tuple(names[:count]) for count in range(3, len(names) + 1)),
        ]

    def _assemble(self, changes: Changes, pairs: Pairs, *, varlen: bool) -> Problem:
        plainest = self.support.plainest
        fields: dict[str, Any] = {}
        for change in changes.values():
            fields.update(change)
        if fields.get("direction", plainest.direction) == "forward":
            fields.pop("deterministic", None)
        if not varlen and fields.get("layout") == "tail":
            del fields["layout"]
        heads = fields.get("heads_q", plainest.heads_q), fields.get("heads_kv", plainest.heads_kv)
        if fields.get("layout", plainest.layout) == "qkv_packed":
            # One tensor holds all three, so they are alike; the fewer heads and the shorter lengths, so that what fails
            # here is still there when the layout shrinks to plain.
            heads = heads[1], heads[1]
            pairs = tuple((min(pair), min(pair)) for pair in pairs)
        if not varlen:
            q, k = pairs[0]
            pairs = pairs[: max(1, self.size.max_scores // max(1, q * k))]
        fields["heads_q"], fields["heads_kv"] = heads = self._fit_heads(heads, sum(q * k for q, k in pairs))
        pairs = fit_batch(pairs, self.size.max_scores // heads[0], self.snap)
        return replace(plainest, **fields, lengths=lengths_of(pairs, varlen=varlen))

    def _fit_heads(self, heads: Grouping, scores: int) -> Grouping:
        """The most heads of the same group, or the plainest ones, for `scores` a head to stay within the size.

        The batch and the heads give way to lengths: those are what kernels get wrong, and a length that depended on the
        heads could not shrink with them.
        """
        if heads[0] * scores <= self.size.max_scores:
            return heads
        group = heads[0] // heads[1]
        fitting = [
            (heads_q, heads_kv)
            for heads_q, heads_kv in self.support.groupings
            if heads_q // heads_kv == group and heads_q <= heads[0] and heads_q * scores <= self.size.max_scores
        ]
        return fitting[-1] if fitting else (self.support.plainest.heads_q, self.support.plainest.heads_kv)
