"""Errors of one kernel in units of PyTorch's own error: what the 2x rule is about, as a distribution.

One number a tensor, not one a problem: a gradient that is far off must not hide behind its neighbour. `out` and the
gradients stand apart, because their baselines have nothing to do with each other; lse has no baseline.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from fa2verify.reports.record import OutputError, OutputName, Record

Direction = Literal["out", "gradients"]
DIRECTIONS: tuple[Direction, ...] = ("out", "gradients")
RULE = 2.0  # flash-attn's own: at most twice the error of PyTorch in the same dtype

OUTPUTS: dict[Direction, tuple[OutputName, ...]] = {"out": ("out",), "gradients": ("dq", "dk", "dv")}


@dataclass(frozen=True, slots=True)
class Ratios:
    """Ratios max|candidate - reference| / max|baseline - reference| of one kernel in one direction.

    within      ratios of tensors that are within their limits, ascending
    beyond      ratios of tensors that failed, ascending; those that are no number are in `not_finite`
    not_finite  tensors whose error is infinite or NaN although PyTorch's is finite
    exact       tensors where PyTorch's error is zero and the kernel's is not: there is no ratio
    overflowed  tensors where PyTorch's own error is infinite or NaN: there is no ratio
    """

    within: tuple[float, ...]
    beyond: tuple[float, ...]
    not_finite: int
    exact: int
    overflowed: int

    @property
    def tensors(self) -> int:
        """How many tensors were compared with PyTorch's."""
        return len(self.within) + len(self.beyond) + self.not_finite + self.without

    @property
    def values(self) -> tuple[float, ...]:
        """Every finite ratio, ascending."""
        return tuple(sorted(self.within + self.beyond))

    @property
    def worst(self) -> float | None:
        """The largest ratio, inf if an error is not finite, None if there is no ratio."""
        if self.not_finite:
            return math.inf
        return max(self.values, default=None)

    @property
    def median(self) -> float | None:
        """The median of the finite ratios, None if there is none."""
        return quantile(self.values, 0.5)

    @property
    def above_rule(self) -> int:
        """How many ratios lie above 2, those that are not finite among them."""
        return sum(value > RULE for value in self.values) + self.not_finite

    @property
    def without(self) -> int:
        """How many tensors have no ratio."""
        return self.exact + self.overflowed


def ratios(records: Iterable[Record], direction: Direction) -> Ratios:
    """Ratios of every tensor of `direction` in `records` that has a baseline."""
    within: list[float] = []
    beyond: list[float] = []
    not_finite = exact = overflowed = 0
    for record in records:
        for error in record.errors:
            if error.output not in OUTPUTS[direction] or error.baseline is None:
                continue
            ratio = error.ratio
            if not math.isfinite(error.baseline):
                overflowed += 1
            elif not math.isfinite(error.max_abs):
                not_finite += 1
            elif ratio is None or not math.isfinite(ratio):
                exact += 1
            elif record.verdict == "failed" and _fails(error, ratio):
                beyond.append(ratio)
            else:
                within.append(ratio)
    return Ratios(tuple(sorted(within)), tuple(sorted(beyond)), not_finite, exact, overflowed)


def share_of_bound(error: OutputError) -> float:
    """bound_units / limit, at most 1 within the bound; inf where bound_units is NaN."""
    if math.isnan(error.bound_units):
        return math.inf
    if error.limit == 0:
        return 0.0 if error.bound_units == 0 else math.inf
    return error.bound_units / error.limit


def quantile(ascending: Sequence[float], share: float) -> float | None:
    """The `share` quantile of sorted values, interpolated linearly between neighbours; None of nothing."""
    if not ascending:
        return None
    position = share * (len(ascending) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ascending) - 1)
    # Rounding must not carry the result past the upper neighbour, and so past the maximum.
    return min(ascending[below] + (position - below) * (ascending[above] - ascending[below]), ascending[above])


def _fails(error: OutputError, ratio: float) -> bool:
    # A failed problem's other tensors may be fine; only those past the bound or the 2x line are marked as failures.
    return share_of_bound(error) > 1 or ratio > RULE
