import math

from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import quantile_test

from fa2verify.reports.medians import uncertainty


def test_a_median_is_as_sure_as_its_order_statistics() -> None:
    assert uncertainty([1.0] * 5) == math.inf
    assert uncertainty([100.0] * 6) == 0
    assert uncertainty([90, 100, 100, 100, 100, 110]) == 0.1  # of six, the whole range: 1 - 2 / 2^6 is 0.969
    assert (
        uncertainty([90, 99, 100, 100, 100, 100, 101, 110]) == 0.1
    )  # of eight, too: without two, 1 - 18 / 2^8 is 0.930
    assert uncertainty([0, 99, *[100] * 5, 101, 200]) == 0.01  # of nine: 1 - 20 / 2^9 is 0.961


@given(st.lists(st.floats(0.5, 2.0), min_size=6, max_size=60))
def test_the_interval_is_scipys(values: list[float]) -> None:
    interval = quantile_test(values, p=0.5).confidence_interval(0.95)
    ordered = sorted(values)
    middle = (ordered[(len(values) - 1) // 2] + ordered[len(values) // 2]) / 2
    assert uncertainty(values) == (interval.high - interval.low) / 2 / middle
