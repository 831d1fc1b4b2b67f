"""What the filters leave is what the records say, by pointer and by keyboard, with and without a script."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from fa2verify.reports.record import Record
from fa2verify.reports.store import Loaded
from fa2verify.reports.summary import counted

Visit = Callable[..., Page]


def judged(loaded: Loaded) -> list[Record]:
    records = [record for part in loaded.parts for record in counted(part.records)]
    return [record for record in records if record.verdict != "unsupported"]


def status(page: Page) -> str:
    return page.locator(".filters [role=status]").inner_text()


def passed(page: Page, kernel: str) -> int:
    row = page.locator(".slice:visible tr", has=page.locator("th", has_text=re.compile(rf"^\s*(✗ )?{kernel}\b"))).first
    return int(row.locator("td").first.inner_text().replace(",", ""))


@pytest.mark.parametrize("script", [True, False])
def test_a_filter_shows_its_part(visit: Visit, real: Loaded, real_page: Path, script: bool) -> None:
    page = visit(real_page, java_script_enabled=script)
    records = judged(real)
    assert status(page) == f"all: {len(records):,} problems"
    page.get_by_label("bfloat16", exact=True).check()
    half = [record for record in records if record.problem.get("dtype") == "bfloat16"]
    assert status(page) == f"bfloat16: {len(half):,} problems"
    page.get_by_label("forward", exact=True).check()
    part = [record for record in half if "direction" not in record.problem]
    assert status(page) == f"bfloat16, forward: {len(part):,} problems"
    ours = [record.verdict for record in part if record.kernel == "fa2verify-triton"]
    assert passed(page, "fa2verify-triton") == ours.count("passed") > 0


def test_filters_by_keyboard(visit: Visit, real_page: Path) -> None:
    page = visit(real_page)
    page.get_by_label("all", exact=True).first.focus()
    page.keyboard.press("ArrowRight")
    assert status(page).startswith("float16: ")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    assert status(page).startswith("float16, forward: ")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # opens the list of kernels
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    expect(page.get_by_label("fa2verify-triton", exact=True)).not_to_be_checked()
    expect(page.locator("#kernels ~ .slice:visible th", has_text="fa2verify-triton")).to_have_count(1)
    expect(page.locator("#kernels ~ .slice:visible th:visible", has_text="fa2verify-triton")).to_have_count(0)


def test_a_kernel_that_is_not_wanted_is_nowhere(visit: Visit, real_page: Path) -> None:
    page = visit(real_page)
    page.locator(".filters summary").click()
    page.get_by_label("torch-varlen", exact=True).uncheck()
    page.locator("#by-v").select_option("crashed")
    assert page.locator("#found").inner_text() == "No problem is like this."
    for tag in ("th", "caption", "details.failure h3", "li"):
        assert not page.locator(f"main {tag}:visible", has_text="torch-varlen").count(), tag


@pytest.mark.parametrize("by", ["pointer", "keyboard"])
def test_a_number_opens_to_its_problems(visit: Visit, real: Loaded, real_page: Path, by: str) -> None:
    page = visit(real_page)
    page.get_by_label("bfloat16", exact=True).check()
    row = page.locator("#features ~ .slice:visible tr", has=page.get_by_role("rowheader", name="window", exact=True))
    cell = row.get_by_role("link").last
    if by == "pointer":
        cell.click()
    else:
        cell.focus()
        page.keyboard.press("Enter")
    asked = [
        record
        for record in judged(real)
        if record.kernel == "fa2verify-cuda" and {"bfloat16", "window"} <= set(record.features)
    ]
    expect(page.locator("#found")).to_be_focused()
    expect(page.locator("#found")).to_have_text(f"{len(asked)} problems, the first 20 of them:")
    page.get_by_role("button", name="Show 20 more").click()
    commands = page.locator("#list pre").all_inner_texts()
    assert len(commands) == min(len(asked), 40)
    assert all(command.startswith("fa2verify check fa2verify-cuda '{") for command in commands)
    assert all('"window":' in command and '"dtype":"bfloat16"' in command for command in commands)
    expect(page.locator("#list li").nth(20)).to_be_focused()


def test_decoys_open_to_the_problems_that_were_too_close(visit: Visit, real: Loaded, real_page: Path) -> None:
    page = visit(real_page)
    row = page.locator("#decoys ~ .slice:visible tr", has=page.get_by_role("rowheader", name="torch-math", exact=True))
    link = row.get_by_role("link", name=re.compile("too close")).first
    number = int(link.inner_text().split()[0])
    close = [r for r in judged(real) if r.kernel == "torch-math" and r.decoys.get("all zeros") == "too_close"]
    assert number == len(close)
    link.click()
    expect(page.locator("#found")).to_have_text(f"{number} problems, the first 20 of them:")


def test_without_a_script_the_worst_problems_are_listed(visit: Visit, real_page: Path) -> None:
    page = visit(real_page, java_script_enabled=False)
    expect(page.locator("#finder")).to_be_hidden()
    assert page.locator("#list li:visible").count() == 20
    page.get_by_label("float16", exact=True).check()
    assert 0 < page.locator("#list li:visible").count() < 20
