"""How many units in the last place a kernel's elements are off, over all its tensors of one kind.

A maximum says how bad the worst element is; this says what the rest are like. A kernel that rounds once at the end has
most elements within half a unit, one that accumulates in the dtype does not.
"""

from collections import Counter
from dataclasses import dataclass
from itertools import zip_longest

from fa2verify.reports.record import OutputName
from fa2verify.reports.store import Loaded
from fa2verify.reports.strip import bars
from fa2verify.reports.summary import counted

EDGES = ("½", "1", "2", "4", "8")  # upper ends of the columns that are shown, in ulp


@dataclass(frozen=True, slots=True)
class Ulps:
    """All tensors of one kernel and one output.

    counts  elements by how far off they are, in the buckets of `OutputError.ulps`
    within  share of the elements that are at most as far off as each of `EDGES`, cumulative
    """

    kernel: str
    output: OutputName
    counts: tuple[int, ...]
    within: tuple[float, ...]

    @property
    def elements(self) -> int:
        """How many elements were measured."""
        return sum(self.counts)

    @property
    def path(self) -> str:
        """The histogram as SVG path data, in a box 100 wide and 20 high."""
        return bars(Counter(dict(enumerate(self.counts))), len(self.counts))


def ulps(loaded: Loaded) -> tuple[Ulps, ...]:
    """One entry a kernel and output that was measured, in order of appearance."""
    histograms: dict[tuple[str, OutputName], list[int]] = {}
    for part in loaded.parts:
        for record in counted(part.records):
            for error in record.errors:
                key = record.kernel, error.output
                sums = zip_longest(histograms.get(key, ()), error.ulps, fillvalue=0)
                histograms[key] = [total + count for total, count in sums]
    return tuple(
        Ulps(kernel, output, tuple(counts), _cumulative(counts))
        for (kernel, output), counts in histograms.items()
        if sum(counts)
    )


def _cumulative(counts: list[int]) -> tuple[float, ...]:
    return tuple(sum(counts[: end + 1]) / sum(counts) for end in range(len(EDGES)))
