"""Everything that the page says about one slice of a run, computed before a template sees it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from fa2verify.reports import matrix as features
from fa2verify.reports.breakdown import Breakdown, breakdowns
from fa2verify.reports.places import Map, maps
from fa2verify.reports.ratios import DIRECTIONS, RULE, Direction, Ratios, quantile
from fa2verify.reports.record import OutputName
from fa2verify.reports.slices import Slice
from fa2verify.reports.strip import Scale, Strip, strip
from fa2verify.reports.summary import KernelSummary, summarize
from fa2verify.reports.tensors import Tensors, tensors
from fa2verify.reports.ulps import Ulps, ulps

OUTPUTS = get_args(OutputName)
_LEAST_RATIO, _MOST_RATIO = 1e-2, 1e2  # beyond, only the side matters; the table gives the numbers


@dataclass(frozen=True, slots=True)
class Scales:
    """The axes of the page's strips, one for all slices, so that a filter moves no axis."""

    ratio: Scale
    share: Scale
    bias: Scale


@dataclass(frozen=True, slots=True)
class RatioRow:
    """One kernel and direction in the section on ratios to PyTorch's error."""

    kernel: str
    direction: Direction
    ratios: Ratios
    strip: Strip


@dataclass(frozen=True, slots=True)
class TensorRow:
    """One kernel and output in the sections on the bound and on bias; no bias strip for lse, whose unit is fp32's."""

    tensors: Tensors
    shares: Strip
    biases: Strip | None


@dataclass(frozen=True, slots=True)
class View:
    """One slice as the page shows it; `summaries` and the matrix's columns are those kernels that it judged."""

    slice: Slice
    summaries: tuple[KernelSummary, ...]
    matrix: dict[str, tuple[features.Cell, ...]]
    ratios: tuple[RatioRow, ...]
    tensors: tuple[TensorRow, ...]
    breakdowns: tuple[Breakdown, ...]
    maps: tuple[Map, ...]
    ulps: tuple[Ulps, ...]

    @property
    def problems(self) -> int:
        """How many problems were judged."""
        return sum(summary.judged for summary in self.summaries)

    @property
    def decoys(self) -> tuple[str, ...]:
        """Every decoy that a kernel's problems tried, in order of appearance."""
        return tuple(dict.fromkeys(decoy for summary in self.summaries for decoy in summary.decoys))


def views(slices: Sequence[Slice]) -> tuple[tuple[View, ...], Scales]:
    """The views of all slices, the first that of the whole run, and the axes that they share."""
    measured = [tensors(part.loaded) for part in slices]
    summaries = [summarize(part.loaded) for part in slices]
    scales = _scales(summaries[0], measured[0])
    of_slices = zip(slices, summaries, measured, strict=True)
    return tuple(_view(part, kernels, rows, scales) for part, kernels, rows in of_slices), scales


def _view(part: Slice, everything: tuple[KernelSummary, ...], measured: tuple[Tensors, ...], scales: Scales) -> View:
    whole = not part.dtype and not part.direction
    order = {summary.name: number for number, summary in enumerate(everything)}
    # A kernel that takes nothing says so with all problems; under a filter it would only be in the way.
    shown = tuple(
        summary
        for summary in everything
        if summary.status != "unavailable" and (whole or summary.status != "not judged")
    )
    return View(
        slice=part,
        summaries=shown,
        matrix=features.matrix(part.loaded, shown),
        ratios=tuple(
            RatioRow(
                summary.name,
                direction,
                summary.ratios[direction],
                _ratio_strip(summary.ratios[direction], scales.ratio),
            )
            for summary in shown
            for direction in DIRECTIONS
            if summary.ratios[direction].tensors
        ),
        tensors=tuple(
            TensorRow(
                row,
                strip(row.shares, row.failed, scales.share),
                None if row.output == "lse" else strip(row.biases, (), scales.bias),
            )
            for row in sorted(measured, key=lambda row: (order[row.kernel], OUTPUTS.index(row.output)))
        ),
        breakdowns=breakdowns(part.loaded, order),
        maps=tuple(sorted(maps(part.loaded), key=lambda one: (order[one.kernel], DIRECTIONS.index(one.direction)))),
        ulps=tuple(sorted(ulps(part.loaded), key=lambda row: (order[row.kernel], OUTPUTS.index(row.output)))),
    )


def _ratio_strip(found: Ratios, scale: Scale) -> Strip:
    return strip(found.values, (*found.beyond, *[math.inf] * min(found.not_finite, 1)), scale)


def _scales(summaries: Sequence[KernelSummary], measured: Sequence[Tensors]) -> Scales:
    worst = max(
        (value for summary in summaries for one in DIRECTIONS for value in summary.ratios[one].values), default=1.0
    )
    high = 10.0 ** math.ceil(math.log10(min(max(worst, 5 * RULE), _MOST_RATIO)))
    failed = any(row.failed for row in measured)
    sizes = sorted(abs(bias) for row in measured if row.output != "lse" for bias in row.biases)
    # All but the furthest tenth, which lies at the ends: references that cancel make biases without measure.
    widest = quantile(sizes, 0.9) or 0.0
    side = 10.0 ** math.ceil(math.log10(widest)) if widest > 0 else 1.0
    side = next(side * part for part in (0.2, 0.5, 1.0) if widest <= side * part or part == 1.0)
    return Scales(Scale(_LEAST_RATIO, high), Scale(1e-3, 100.0 if failed else 2.0), Scale(-side, side, linear=True))
