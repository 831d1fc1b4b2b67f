"""Where charts draw what: bars as high as their values, lines through theirs, nothing outside the picture."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fa2verify.reports.chart import WIDTH, Chart, bars, lines

BAR = re.compile(r"M([-\d.e+]+) ([-\d.e+]+)v-([-\d.e+]+)h([-\d.e+]+)v\3z")
POINT = re.compile(r"M([-\d.e+]+) ([-\d.e+]+)h0")
VALUES = st.none() | st.floats(1e-9, 1e9)


def drawn(chart: Chart) -> dict[str, list[tuple[float, ...]]]:
    """Name to the bars of its path: x, base, height, width."""
    return {series.name: [tuple(map(float, bar)) for bar in BAR.findall(series.path)] for series in chart.series}


def test_bars_stand_side_by_side_and_are_as_high_as_their_values() -> None:
    chart = bars("TFLOP/s", ["512", "1024"], {"a": [100.0, 400.0], "b": [200.0, None]})
    assert [(tick.text, round(tick.at)) for tick in chart.ticks] == [
        ("0", 172),
        ("100", 134),
        ("200", 96),
        ("300", 58),
        ("400", 20),
    ]
    (a1, a2), (b1,) = drawn(chart).values()
    assert [round(bar[2]) for bar in (a1, a2, b1)] == [38, 152, 76]
    assert a1[0] < b1[0] < chart.columns[1].at
    assert a1[0] + a1[3] <= b1[0]
    # Around the column's name: two bars, one on either side.
    assert a1[0] + a1[3] < chart.columns[0].at < b1[0] + b1[3]
    assert not chart.limit


def test_a_limit_stands_over_its_column_alone() -> None:
    chart = bars("x", ["1", "2"], {"a": [1.0, 2.0]}, [None, 4.0])
    assert chart.limit == "M199 20h157"
    assert chart.ticks[-1].text == "4"


@pytest.mark.parametrize(
    ("value", "ticks"),
    [
        (1.94, ["0", "0.5", "1", "1.5", "2"]),
        (300_000.0, ["0", "100k", "200k", "300k"]),
        (9_000.0, ["0", "2,500", "5,000", "7,500", "10k"]),
        (4e6, ["0", "1M", "2M", "3M", "4M"]),
        (0.0, ["0", "0.25"]),
    ],
)
def test_an_axis_ends_at_a_round_number(value: float, ticks: list[str]) -> None:
    assert [tick.text for tick in bars("x", ["1"], {"a": [value]}).ticks] == ticks


@given(st.lists(st.lists(VALUES, min_size=3, max_size=3), max_size=12), st.lists(VALUES, max_size=3))
def test_no_bar_leaves_the_picture(rows: list[list[float | None]], limits: list[float | None]) -> None:
    chart = bars("x", ["1", "2", "3"], {str(number): row for number, row in enumerate(rows)}, limits)
    for number, row in enumerate(rows):
        found = drawn(chart)[str(number)]
        assert len(found) == sum(value is not None for value in row)
        for x, base, height, width in found:
            assert chart.left - 1e-2 <= x <= x + width <= chart.right + 1e-2
            assert base == chart.base
            assert 0 <= height <= chart.base - 20 + 1e-2


@given(st.lists(st.lists(VALUES | st.just(0.0), min_size=3, max_size=3), max_size=5))
def test_a_line_has_a_point_for_each_positive_value(rows: list[list[float | None]]) -> None:
    chart = lines("MB", ["1", "2", "3"], {str(number): row for number, row in enumerate(rows)})
    for series, row in zip(chart.series, rows, strict=True):
        points = [tuple(map(float, point)) for point in POINT.findall(series.points)]
        assert len(points) == sum(value is not None and value > 0 for value in row)
        assert series.path.count("M") + series.path.count("L") == len(points)
        assert all(chart.left <= x <= chart.right <= WIDTH and 19.9 <= y <= chart.base + 0.1 for x, y in points)


def test_a_missing_value_breaks_its_line_and_tens_are_equally_far_apart() -> None:
    chart = lines("MB", ["1", "2", "3", "4"], {"a": [1.0, 100.0, None, 10.0]})
    assert [tick.text for tick in chart.ticks] == ["1", "10", "100"]
    first, second, third = (tick.at for tick in chart.ticks)
    assert first - second == pytest.approx(second - third)
    assert re.findall("[ML]", chart.series[0].path) == ["M", "L", "M"]
