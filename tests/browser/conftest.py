"""Pages in a real browser: Chromium without a window, driven by Playwright, with a fresh profile."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_up import everything, machine
from playwright.sync_api import Browser, Page, sync_playwright

from fa2verify.reports.benchmark_record import Ceiling, Timing
from fa2verify.reports.html import render
from fa2verify.reports.record import Record
from fa2verify.reports.store import Loaded, load

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# Of the first runs on an H200, with failures, a crash and several runs: what a page must show.
REAL = Path(__file__).parent / "records"
# A later run there, whose failures are known ones.
WITH_KNOWN = Path(__file__).parents[2] / "docs" / "results" / "h200-2026-11-20" / "every-kernel.jsonl"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.fail(
            f"no Chromium on PATH (looked for {', '.join(NAMES)}); install it, on Debian: apt-get install chromium"
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens a file in a window of its own. Whatever it does, it must raise no error and ask for nothing else."""
    contexts = []
    faults: list[str] = []

    def opened(path: Path, **options: Any) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, "offline": True, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(f"script error: {error}"))
        page.on("console", lambda message: faults.append(f"console: {message.text}"))
        page.on("dialog", lambda dialog: (faults.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on(
            "request",
            lambda request: faults.append(f"asked for {request.url}") if request.url != path.as_uri() else None,
        )
        page.goto(path.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not faults


@pytest.fixture(scope="session")
def real() -> Loaded:
    """Two real runs on an H200, with failures, crashes among them, and kernels that were left out."""
    return load([REAL / "every-kernel.jsonl", REAL / "our-kernels.jsonl"])


@pytest.fixture(scope="session")
def real_page(real: Loaded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("real") / "index.html"
    path.write_text(render(real), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def foreign_page(real: Loaded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real runs, as if each kernel were a function of somebody's module."""
    parts = (
        replace(
            part,
            records=tuple(replace(record, kernel=f"models:FlashAttention_{record.kernel}") for record in part.records),
            kernels=tuple(replace(kernel, name=f"models:FlashAttention_{kernel.name}") for kernel in part.kernels),
        )
        for part in real.parts
    )
    path = tmp_path_factory.mktemp("foreign") / "index.html"
    path.write_text(render(Loaded(tuple(parts))), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def small_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One setting of the filters and two kernels of a real run: every kind of section, once.

    Of the known failures one is made a plain one, which the run itself has none of.
    """
    kernels = ("fa2verify-triton", "torch-varlen")

    def kept(record: Record) -> bool:
        return record.kernel in kernels and record.problem.get("dtype") is None and "direction" not in record.problem

    (part,) = load([WITH_KNOWN]).parts
    records = list(filter(kept, part.records))
    known = next(index for index, record in enumerate(records) if record.verdict == "known")
    records[known] = replace(records[known], verdict="failed", known=None)
    path = tmp_path_factory.mktemp("small") / "index.html"
    path.write_text(render(Loaded((replace(part, records=tuple(records)),))), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def measured_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Benchmarks of every kind, and nothing else."""
    path = tmp_path_factory.mktemp("measured") / "index.html"
    path.write_text(render(Loaded(()), [machine(*everything())]), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def few_measured_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Benchmarks of every kind, of speeds one panel a direction."""
    lines = (line for line in everything() if not isinstance(line, Timing | Ceiling) or "d64-None" in line.cell)
    path = tmp_path_factory.mktemp("few") / "index.html"
    path.write_text(render(Loaded(()), [machine(*lines)]), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def large_page(real: Loaded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real records again and again, each with a seed of its own, to a little more than 10,000; and benchmarks."""
    records = sum(len(part.records) for part in real.parts)
    rounds = -(-10_000 // records)
    parts = tuple(
        replace(
            part,
            records=tuple(
                replace(record, problem={**record.problem, "seed": again * records + number})
                for again in range(rounds)
                for number, record in enumerate(part.records)
            ),
        )
        for part in real.parts
    )
    path = tmp_path_factory.mktemp("large") / "index.html"
    path.write_text(render(Loaded(parts), [machine(*everything())]), encoding="utf-8")
    return path
