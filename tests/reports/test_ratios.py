import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fa2verify.reports.ratios import quantile, ratios, share_of_bound

Make = Callable[..., Any]


def test_ratios_are_sorted_by_what_they_mean(make_record: Make, make_error: Make) -> None:
    passed = make_record(errors=(make_error("out", 3.0, 1.0), make_error("dq", 0.5, 2.0), make_error("dv", 8.0, 2.0)))
    failed = make_record(
        "failed",
        errors=(
            make_error("out", 5.0, 1.0, bound_units=0.5),  # above 2x
            make_error("dq", 1.0, 1.0, bound_units=1.5),  # beyond the bound
            make_error("dk", 1.0, 4.0, bound_units=1.0),  # fine: at the bound and within 2x
        ),
    )
    out, gradients = ratios([passed, failed], "out"), ratios([passed, failed], "gradients")
    assert (out.within, out.beyond) == ((3.0,), (5.0,))
    assert (gradients.within, gradients.beyond) == ((0.25, 0.25, 4.0), (1.0,))
    assert (out.worst, out.median, out.above_rule) == (5.0, 4.0, 2)
    assert (gradients.worst, gradients.median, gradients.above_rule) == (4.0, 0.625, 1)


def test_tensors_without_a_ratio_are_counted_apart(make_record: Make, make_error: Make) -> None:
    record = make_record(
        errors=(
            make_error("out", 0.0, 0.0),  # both exact: ratio 0
            make_error("out", 1e-9, 0.0),
            make_error("out", 1.0, math.inf),
            make_error("out", 1.0, None),
            make_error("lse", 9.0, 1.0),
        )
    )
    found = ratios([record], "out")
    assert found.values == (0.0,)
    assert (found.exact, found.overflowed, found.not_finite) == (1, 1, 0)
    assert (found.tensors, found.without) == (3, 2)


@pytest.mark.parametrize("error", [math.inf, math.nan])
def test_an_error_that_is_not_finite_is_the_worst(make_record: Make, make_error: Make, error: float) -> None:
    found = ratios([make_record("failed", errors=(make_error(max_abs=error), make_error(max_abs=1.0)))], "out")
    assert (found.not_finite, found.worst, found.median, found.above_rule) == (1, math.inf, 1.0, 1)


def test_nothing_measured_has_no_worst() -> None:
    found = ratios([], "out")
    assert (found.worst, found.median, found.tensors) == (None, None, 0)


@pytest.mark.parametrize(
    ("units", "limit", "share"),
    [(0.5, 2.0, 0.25), (math.nan, 1.0, math.inf), (math.inf, 1.0, math.inf), (0.0, 0.0, 0.0), (1.0, 0.0, math.inf)],
)
def test_share_of_the_bound(make_error: Make, units: float, limit: float, share: float) -> None:
    assert share_of_bound(make_error(bound_units=units, limit=limit)) == share


@given(st.lists(st.floats(0, 1e6), min_size=1).map(sorted), st.floats(0, 1))
def test_quantiles_are_within_the_values_and_hit_both_ends(values: list[float], share: float) -> None:
    found = quantile(values, share)
    assert found is not None
    assert values[0] <= found <= values[-1]
    assert (quantile(values, 0), quantile(values, 1)) == (values[0], values[-1])


def test_quantile_by_hand() -> None:
    assert quantile([1.0, 2.0, 4.0, 8.0], 0.5) == 3.0
    assert quantile([1.0, 2.0, 4.0, 8.0], 0.25) == 1.75
    assert quantile([], 0.5) is None
