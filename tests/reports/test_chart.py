import re
from xml.etree import ElementTree as ET

import pytest

from fa2verify.reports.chart import Strip, ratio_charts
from fa2verify.reports.ratios import Ratios

NOTHING = Ratios((), (), 0, 0, 0)


def picture(*strips: Strip) -> ET.Element:
    return ET.fromstring(ratio_charts({"out": strips})["out"])


def texts(svg: ET.Element) -> list[str]:
    return [element.text or "" for element in svg.iter("text")]


def crosses(svg: ET.Element) -> list[float]:
    return [float(use.attrib["x"]) for use in svg.iter("use") if "--bad" in use.attrib["style"]]


def width(svg: ET.Element) -> float:
    return float(svg.attrib["viewBox"].split()[2])


def test_names_numbers_and_the_rule_are_text() -> None:
    svg = picture(Strip("ours", Ratios((0.5, 1.0, 1.5), (), 0, 0, 0)), Strip("theirs", NOTHING))
    assert {"ours", "median 1.00, worst 1.50", "theirs", "not measured", "2x rule"} <= set(texts(svg))


def test_each_failure_is_a_cross_right_of_the_rule() -> None:
    svg = picture(Strip("ours", Ratios((1.0,), (5.0, 50.0, 50.01, 1e9), 1, 0, 0)))
    rule = next(float(text.attrib["x"]) for text in svg.iter("text") if text.text == "2x rule")
    marks = crosses(svg)
    assert len(marks) == 4  # 50 and 50.01 fall together; beyond 10,000 and not finite stand apart
    assert rule < marks[0] < marks[1] < marks[2] < marks[3] <= width(svg)


def test_what_passes_shows_no_cross() -> None:
    assert crosses(picture(Strip("ours", Ratios((0.1, 30.0), (), 0, 3, 0)))) == []


def test_a_kernel_without_any_ratio_says_so() -> None:
    assert "2 tensors without a ratio" in texts(picture(Strip("ours", Ratios((), (), 0, 2, 0))))
    assert "not finite" in texts(picture(Strip("ours", Ratios((), (), 1, 0, 0))))


@pytest.mark.parametrize(
    "name", ["$x^2$", "</text><script>alert(1)</script>", "\U0001f600\u4e2d", "a\nb", "$", "x" * 31]
)
def test_any_name_is_shown_as_it_is(name: str) -> None:
    shown = "".join(texts(picture(Strip(name, NOTHING))))
    expected = name if len(name) <= 30 else name[:29] + "…"
    assert expected.replace("\n", "") in shown


def test_both_pictures_share_an_axis_but_no_id() -> None:
    charts = ratio_charts(
        {"out": [Strip("a", Ratios((1.0,), (), 0, 0, 0))], "gradients": [Strip("a", Ratios((900.0,), (), 0, 0, 0))]}
    )
    ids = [set(re.findall(r' id="([^"]*)"', chart)) for chart in charts.values()]
    assert ids[0]
    assert not ids[0] & ids[1]
    ticks = [[text for text in texts(ET.fromstring(chart)) if text.isdigit()] for chart in charts.values()]
    assert ticks == [["1", "10", "100"]] * 2


def test_every_reference_stays_inside() -> None:
    chart = ratio_charts({"out": [Strip("a", Ratios((1.0, 2.0), (3.0,), 0, 0, 0))]})["out"]
    ids = set(re.findall(r' id="([^"]*)"', chart))
    references = re.findall(r'href="([^"]*)"', chart) + re.findall(r"url\(([^)]*)\)", chart)
    assert references
    assert {reference.removeprefix("#") for reference in references} <= ids
    assert "http" not in chart
    assert not re.search(r"#[0-9a-f]{6}\b", chart), "a colour that does not follow the page"
