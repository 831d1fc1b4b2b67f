import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fa2verify.reports.strip import Scale, bars, strip

RATIO = Scale(0.01, 100.0)


def test_a_logarithmic_axis_by_hand() -> None:
    assert [RATIO.at(value) for value in (0.01, 1.0, 100.0)] == pytest.approx([0, 50, 100])
    assert [(round(at), text) for at, text in RATIO.ticks] == [
        (0, "0.01"),
        (25, "0.1"),
        (50, "1"),
        (75, "10"),
        (100, "100"),
    ]


def test_a_linear_axis_by_hand() -> None:
    axis = Scale(-2.0, 2.0, linear=True)
    assert [axis.at(value) for value in (-2.0, 0.0, 1.0)] == [0, 50, 75]
    assert axis.ticks == ((0, "-2"), (50, "0"), (100, "2"))


@given(st.floats())
def test_nothing_lies_beyond_the_axis(value: float) -> None:
    assert 0 <= RATIO.at(value) <= 100
    assert RATIO.at(float("nan")) == 100


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (0.0, 1.0), (2.0, 1.0)])
def test_an_axis_without_extent_is_refused(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="no extent"):
        Scale(low, high)


def heights(path: str) -> list[float]:
    return [float(height) for height in re.findall(r"v-([0-9.e+-]+)h", path)]


def test_bars_are_in_proportion_and_never_vanish() -> None:
    assert heights(bars(Counter({0: 1, 1: 500, 3: 1000}), 4)) == [1.6, 10.0, 20.0]


def test_exact_results_at_the_edge_do_not_flatten_the_rest() -> None:
    drawn = strip([0.0] * 1000 + [0.5] * 5 + [1.0] * 10, (), RATIO)
    assert heights(drawn.path) == [20.0, 10.0, 20.0]


def test_median_and_marks() -> None:
    drawn = strip([0.1, 1.0, 10.0], [9.99, 10.0, float("inf")], RATIO)
    assert drawn.median == pytest.approx(50)
    assert drawn.marks == (75, 100)
    assert strip([], [], RATIO) == type(drawn)("", None, ())


def test_ten_thousand_values_take_no_more_room_than_a_hundred() -> None:
    many = strip(sorted(number / 100 for number in range(1, 10_001)), (), RATIO)
    assert len(many.path) < 60 * 30
