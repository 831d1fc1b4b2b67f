"""How large a problem may be, and how lengths that were drawn too large are brought under it.

Lengths are clamped, never filtered: a rejected draw costs time and makes Hypothesis look elsewhere, a clamped one is
still a problem. A clamped length becomes the largest notable length that fits, so that the edges of tiles, where
kernels go wrong, stay as frequent as they were.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import isqrt

Pair = tuple[int, int]  # (seqlen_q, seqlen_k) of one sequence


@dataclass(frozen=True, slots=True)
class Size:
    """Bounds on the work of one problem; a CPU reference costs about `max_scores` * head_dim operations.

    max_seqlen    longest sequence, queries or keys
    max_scores    most scores, see `Problem.scores`; at least `max_heads`, so that one query and one key always fit
    max_batch     most sequences
    max_heads     most query heads
    max_head_dim  largest head dimension

    Raises ValueError, naming field, value and rule.
    """

    max_seqlen: int
    max_scores: int
    max_batch: int
    max_heads: int
    max_head_dim: int = 256

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value < 1:
                raise ValueError(f"{field.name}: {value} leaves no problem to draw; it must be at least 1")
        if self.max_scores < self.max_heads:
            raise ValueError(
                f"max_scores: {self.max_scores} is less than max_heads = {self.max_heads}; "
                "one query and one key have as many scores as heads"
            )


@dataclass(frozen=True, slots=True)
class Snap:
    """Brings a length under a bound: to the largest notable length that fits, else to the largest that fits.

    Both sequences ascend. Where not even the shortest length fits, that one is given.
    """

    lengths: Sequence[int]
    notable: Sequence[int]

    def __call__(self, bound: int) -> int:
        """The length to use where at most `bound` fits."""
        for lengths in (self.notable, self.lengths):
            place = bisect_right(lengths, bound)
            if place:
                return lengths[place - 1]
        return self.lengths[0]


def fit_pair(pair: Pair, most: int, snap: Snap) -> Pair:
    """The pair with seqlen_q * seqlen_k at most `most`: the longer side is cut first, equal sides stay equal."""
    q, k = pair
    if q * k <= most:
        return pair
    if q == k:
        side = snap(isqrt(most))
        return side, side
    short, long = min(q, k), max(q, k)
    if short * short > most:
        short = snap(isqrt(most))
    if long > most // short:
        long = snap(most // short)
    return (short, long) if q < k else (long, short)


def fit_batch(pairs: Sequence[Pair], most: int, snap: Snap) -> tuple[Pair, ...]:
    """The batch with the sum of seqlen_q * seqlen_k at most `most`.

    Sequences take their share from the smallest to the largest, and what a small one leaves goes to the larger: one
    long sequence among many short ones stays long. Equal pairs stay equal. Only where `most` is less than the number
    of sequences are some left out.
    """
    pairs = pairs[:most]
    fitted: dict[Pair, Pair] = {}
    remaining = most
    for place, pair in enumerate(sorted(pairs, key=lambda pair: pair[0] * pair[1])):
        if pair not in fitted:
            fitted[pair] = fit_pair(pair, remaining // (len(pairs) - place), snap)
        remaining -= fitted[pair][0] * fitted[pair][1]
    return tuple(fitted[pair] for pair in pairs)
