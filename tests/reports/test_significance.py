import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fa2verify.reports.significance import growth, holm, pairs, rates, samples


def test_failing_more_often_by_hand() -> None:
    # All 3 failures among the 3 problems of B, none in 3 of A: one of C(6, 3) = 20 ways.
    assert rates(0, 3, 3, 3) == pytest.approx(1 / 20)
    assert rates(3, 3, 0, 3) == pytest.approx(1.0)


def test_pairs_by_hand() -> None:
    assert pairs([1.0, 2.0, 3.0, 7.0], [2.0, 3.0, math.inf, 7.0]) == pytest.approx(1 / 8)
    assert pairs([1.0, 1.0], [1.0, 0.0]) == 1.0
    assert pairs([math.inf], [math.inf]) == 1.0


def test_samples_by_hand() -> None:
    # B's three above A's three: one of C(6, 3) = 20 ways.
    assert samples([1.0, 2.0, 3.0], [4.0, 5.0, math.inf]) == pytest.approx(1 / 20)
    assert samples([4.0, 5.0, 6.0], [1.0, 2.0, 3.0]) == pytest.approx(1.0)
    assert samples([], [1.0]) == 1.0


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx((0.03, 0.06, 0.06))
    assert holm([0.9, 0.8]) == (1.0, 1.0)
    assert holm([]) == ()


@given(st.lists(st.floats(0, 1)))
def test_a_correction_never_makes_chance_less_likely(p_values: list[float]) -> None:
    assert all(after >= before for before, after in zip(p_values, holm(p_values), strict=True))


@pytest.mark.parametrize(("a", "b", "times"), [(2.0, 3.0, 1.5), (0.0, 0.0, 1.0), (0.0, 1.0, math.inf)])
def test_growth(a: float, b: float, times: float) -> None:
    assert growth(a, b) == times
    assert growth(math.inf, math.inf) == 1.0
