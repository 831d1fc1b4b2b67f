"""Charts and tables of benchmarks in a browser: what the filter hides, what a phone, a keyboard and paper get."""

from collections.abc import Callable
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from made_up import KERNELS
from playwright.sync_api import Page, expect

Visit = Callable[..., Page]
PHONE = {"viewport": {"width": 375, "height": 700}, "has_touch": True, "is_mobile": True}


def open_all(page: Page) -> None:
    page.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true; })")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_serves_those_who_read_by_other_means(visit: Visit, few_measured_page: Path, scheme: str) -> None:
    page = visit(few_measured_page, color_scheme=scheme)
    open_all(page)
    found = Axe().run(page)
    assert not found.response["violations"], found.generate_report()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_has_charts_as_wide_as_it_is(visit: Visit, measured_page: Path, scheme: str) -> None:
    page = visit(measured_page, color_scheme=scheme, **PHONE)
    open_all(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    widths = page.evaluate("[...document.querySelectorAll('svg.chart')].map(one => one.getBoundingClientRect().width)")
    assert len(widths) > 40
    assert min(widths) > 300
    assert max(widths) <= 375


def test_text_of_charts_lies_within_them_and_apart(visit: Visit, measured_page: Path) -> None:
    page = visit(measured_page)
    faults = page.evaluate("""() => {
      const found = [];
      for (const chart of document.querySelectorAll('svg.chart')) {
        const frame = chart.getBoundingClientRect();
        const boxes = [...chart.querySelectorAll('text')].map(one => [one.textContent, one.getBoundingClientRect()]);
        boxes.forEach(([text, box], at) => {
          if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1) found.push(text);
          for (const [other, beside] of boxes.slice(at + 1)) {
            const over = box.left < beside.right && beside.left < box.right;
            // Lines of text may touch: boxes are higher than what is written in them.
            if (over && box.top + 4 < beside.bottom && beside.top + 4 < box.bottom) found.push(`${text} on ${other}`);
          }
        });
      }
      return found;
    }""")
    assert not faults


def test_a_kernel_that_is_not_wanted_is_in_no_chart_and_no_table(visit: Visit, measured_page: Path) -> None:
    page = visit(measured_page, java_script_enabled=False)
    own = page.locator("main :is(g, tr, .legend li):visible", has_text=KERNELS[1])
    every = page.locator("main :is(g, tr, .legend li):visible", has_text=KERNELS[2])
    before = every.count()
    assert own.count() == before > 40
    page.locator(".filters summary").click()
    page.get_by_label(KERNELS[1], exact=True).uncheck()
    expect(own).to_have_count(0)
    assert every.count() == before


def test_a_table_opens_by_keyboard(visit: Visit, measured_page: Path) -> None:
    page = visit(measured_page)
    panel = page.locator("figure.panel").first
    expect(panel.locator("table")).to_be_hidden()
    panel.locator("summary").focus()
    page.keyboard.press("Enter")
    expect(panel.locator("table")).to_be_visible()
    # Beside its chart, not below it.
    chart, table = panel.locator("svg").first.bounding_box(), panel.locator("table").bounding_box()
    assert chart is not None
    assert table is not None
    assert table["x"] >= chart["x"] + chart["width"]


def test_paper_has_every_table(visit: Visit, measured_page: Path) -> None:
    page = visit(measured_page, viewport={"width": 720, "height": 1000})  # A4 less its margins, at 96 dots an inch
    assert page.locator("figure.panel details:not([open])").count()
    page.emulate_media(media="print")
    assert page.locator("figure.panel table:visible").count() == page.locator("figure.panel table").count()
    assert not page.locator("figure.panel summary:visible").count()
    assert page.evaluate("document.documentElement.scrollWidth") <= 720
