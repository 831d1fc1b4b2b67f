"""How many units in the last place a kernel's elements are off, over all its tensors of one kind.

A maximum says how bad the worst element is; this says what the rest are like. A kernel that rounds once at the end has
most elements within half a unit, one that accumulates in the dtype does not.
"""

import math
from collections import defaultdict
from dataclasses import dataclass
from itertools import zip_longest

from fa2verify.reports.record import OutputName
from fa2verify.reports.store import Loaded
from fa2verify.reports.summary import counted

EDGES = ("½", "1", "2", "4", "8")  # upper ends of the columns that are shown, in ulp


@dataclass(frozen=True, slots=True)
class Ulps:
    """All tensors of one kernel and one output.

    elements  how many elements were measured
    within    share of the elements that are at most as far off as each of `EDGES`, cumulative
    bias      the tensors' signed mean errors in unit roundoffs: the one furthest from 0
    """

    kernel: str
    output: OutputName
    elements: int
    within: tuple[float, ...]
    bias: float


def ulps(loaded: Loaded) -> tuple[Ulps, ...]:
    """One entry a kernel and output that was measured, in order of appearance."""
    histograms: dict[tuple[str, OutputName], list[int]] = {}
    biases: dict[tuple[str, OutputName], list[float]] = defaultdict(list)
    for part in loaded.parts:
        for record in counted(part.records):
            for error in record.errors:
                key = record.kernel, error.output
                sums = zip_longest(histograms.get(key, ()), error.ulps, fillvalue=0)
                histograms[key] = [total + count for total, count in sums]
                biases[key].append(error.bias)
    return tuple(
        Ulps(kernel, output, sum(counts), _cumulative(counts), _furthest(biases[kernel, output]))
        for (kernel, output), counts in histograms.items()
        if sum(counts)
    )


def _cumulative(counts: list[int]) -> tuple[float, ...]:
    return tuple(sum(counts[: end + 1]) / sum(counts) for end in range(len(EDGES)))


def _furthest(biases: list[float]) -> float:
    # NaN compares as neither larger nor smaller, so it would win or lose by its place.
    return next((bias for bias in biases if math.isnan(bias)), max(biases, key=abs))
