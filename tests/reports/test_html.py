import base64
import hashlib
import json
import re
import time
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest
from made_up import KERNELS, everything, machine, one_of_each

from fa2verify.reports.benchmark_record import HostCost
from fa2verify.reports.html import render
from fa2verify.reports.store import Loaded, RunRecords

Make = Callable[..., Any]


class Page(HTMLParser):
    """A page as its elements with their attributes, and the text within each section."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def structure(self) -> list[tuple[str, tuple[str, ...]]]:
        # But for where a name may be broken, which depends on its letters.
        return [(tag, tuple(sorted(attributes))) for tag, attributes in self.elements if tag != "wbr"]

    @property
    def lines(self) -> list[str]:
        return [" ".join(line.split()) for line in self.text.splitlines() if line.strip()]

    def attributes(self, name: str) -> list[str]:
        return [value or "" for _, attributes in self.elements for key, value in attributes.items() if key == name]


@pytest.fixture
def page_of(make_run: Make, make_kernel: Make, make_record: Make, make_error: Make) -> Callable[[str], Page]:
    """A report in which every text that a stranger can choose is, or begins with, the argument."""

    def make(text: str) -> Page:
        kernels = (
            make_kernel(
                text, lineage=text, origin=f"--kernel={text}", unsupported={f"{text}f": (text,), "dropout": (text,)}
            ),
            make_kernel(f"{text}2", unavailable=(text,)),
        )
        errors = (make_error(), make_error("dq"))
        records = (
            make_record(kernel=text, errors=errors, decoys={text: "caught"}),
            make_record("unsupported", text, features=(f"{text}f",), reasons=(text,)),
            make_record(
                "failed", text, rule=text, message=text, problem={text: {text: text}}, test=text, errors=errors
            ),
            make_record("failed", text, features=(text,), phase="shrunk", decoys={f"{text}d": "missed"}),
            make_record(kernel=f"{text}3", problem={"dtype": text, "direction": text, "values": text}, errors=errors),
        )
        run = make_run(text, started=text, profile=text, device=text, environment={text: text}, features=(text,))
        measured = [machine(*one_of_each(text, text), text=text), machine(*one_of_each(text, text), text=f"{text}2")]
        return Page(render(Loaded((RunRecords(run, kernels, records),), (text,)), measured))

    return make


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "</style><img src=x onerror=alert(1)>",
        "</title></pre></svg><b>",
        "\"' onmouseover='alert(1)' x=\"",
        "{{ 7 * 7 }}{% raw %}",
        "<!-- --><![CDATA[",
        "&lt;b&gt;&amp;",
        "javascript:alert(1)",
        "\u202e\U0001f600\u4e2d\u6587",
        "long" * 5000,
    ],
)
def test_no_text_becomes_markup(page_of: Callable[[str], Page], text: str) -> None:
    hostile = page_of(text)
    assert hostile.structure == page_of("harmless").structure
    assert text[:40] in hostile.text
    assert not [name for _, attributes in hostile.elements for name in attributes if name.startswith("on")]
    assert len(hostile.text) < 1_000_000


def test_a_name_may_be_broken_after_punctuation_and_copies_as_it_is(one_run: Make, make_record: Make) -> None:
    html = render(one_run(make_record(kernel="my_attention:attention"), kernels=()))
    assert '<th scope="row">my_<wbr>attention:<wbr>attention' in html
    assert "my_attention:attention" in Page(html).text


def test_nothing_is_fetched_and_no_other_script_runs(page_of: Callable[[str], Page]) -> None:
    page = page_of("kernel")
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"link", "img", "iframe", "object", "embed", "base", "form", "audio", "video", "source"}
    assert not page.attributes("src")
    assert page.attributes("href")
    assert all(reference.startswith("#") for reference in page.attributes("href"))
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    assert {reference.removeprefix("#") for reference in page.attributes("href")} <= set(ids)
    assert "://" not in page.text
    assert "@import" not in page.text


def test_the_policy_forbids_fetching_and_allows_this_script(one_run: Make) -> None:
    html = render(one_run())
    (policy,) = [attributes["content"] for tag, attributes in Page(html).elements if "http-equiv" in attributes]
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy is not None
    assert policy.split("; ") == [
        "default-src 'none'",
        "style-src 'unsafe-inline'",
        f"script-src 'sha256-{digest}'",
        "base-uri 'none'",
        "form-action 'none'",
    ]


def test_a_run_without_a_record_reads_sensibly(one_run: Make) -> None:
    for loaded in (Loaded(()), one_run(kernels=()), one_run()):
        page = Page(render(loaded))
        assert "No problem was judged" in page.lines
        assert "Environment" in page.lines
        assert "Failures" not in page.lines
    assert "No run is recorded." in Page(render(Loaded(()))).lines


def test_headline_and_numbers(make_record: Make, make_error: Make, one_run: Make) -> None:
    errors = (make_error("out", 1.25, 1.0, bound_units=0.5), make_error("dq", 0.75, 1.0))
    loaded = one_run(make_record(errors=errors, decoys={"zeros": "caught"}))
    page = Page(render(loaded))
    assert "1 kernel, 1 problem, all passed" in page.lines
    (row,) = re.findall(r'<th scope="row">ours.*?</tr>', render(loaded), re.DOTALL)[:1]
    cells = [re.sub(r"<.*?>", "", cell) for cell in re.findall(r"<td>(.*?)</td>", row)]
    assert cells == ["1", "0", "0", "0", "0", "0", "1.25", "1.25", "0.750", "0.750", "0.500"]
    assert "1 of 1" in page.text


def test_a_failure_shows_its_numbers_and_how_to_rerun_it(make_record: Make, make_error: Make, one_run: Make) -> None:
    problem = {"dtype": "bfloat16", "lengths": {"seqlen_q": 3}}
    error = make_error(
        "dk", 0.75, 0.25, bound_units=12.5, limit=2.0, worst_index=(0, 9, 1), observed=1.25, expected=-0.5
    )
    record = make_record("failed", problem=problem, rule="R2", message="dk is wrong", phase="shrunk", errors=(error,))
    page = Page(render(one_run(record)))
    assert "1 kernel, 1 problem: 1 did not pass, in 1 kernel (ours)" in page.lines
    assert "ours: failed, rule R2" in page.lines
    assert f"fa2verify check ours '{json.dumps(problem, separators=(',', ':'))}'" in page.lines
    assert "dk is wrong" in page.lines
    for number in ("3.00", "6.25", "12.5", "0, 9, 1", "1.25", "-0.5"):
        assert number in page.lines, number


def test_every_reason_is_reachable_without_a_pointer(make_kernel: Make, make_record: Make, one_run: Make) -> None:
    kernels = (make_kernel(unsupported={"dropout": ("No dropout yet.",)}),)
    html = render(one_run(make_record(), kernels=kernels))
    assert re.search(r'<details><summary title="No dropout yet\.">no</summary>\s*<p>No dropout yet\.</p>', html)


def test_what_weakens_a_pass_is_in_the_headline(make_kernel: Make, make_record: Make, one_run: Make) -> None:
    kernels = (make_kernel(), make_kernel("idle"), make_kernel("away", unavailable=("No GPU is visible.",)))
    loaded = one_run(make_record(decoys={"other alignment": "too_close"}), kernels=kernels)
    page = Page(render(Loaded(loaded.parts, ("records.jsonl, line 7: cut off",))))
    top = page.lines[: page.lines.index("Kernels")]
    assert "1 kernel left out." in top
    assert "idle was given no problem that it takes." in top
    assert any(line.endswith("so passing proves less: other alignment.") for line in top)
    assert any(line.startswith("1 part of the records could not be read") for line in top)
    assert "records.jsonl, line 7: cut off" in page.lines
    assert "away: No GPU is visible." in page.lines


def test_long_messages_keep_both_ends(make_record: Make, one_run: Make) -> None:
    page = Page(render(one_run(make_record("crashed", message="begin" + "." * 100_000 + "end"))))
    assert "[96,008 characters left out]" in page.lines
    assert "begin..." in page.text
    assert "...end" in page.text


def test_more_failures_than_anyone_reads_are_counted(make_record: Make, one_run: Make) -> None:
    records = [make_record("failed", rule=f"R{number}") for number in range(75)]
    page = Page(render(one_run(*records)))
    assert page.attributes("class").count("failure one k0 d0 r0") == 60
    assert "And 15 more failures that this page leaves out; the records have them." in page.lines


def test_ten_thousand_records_are_a_small_page(
    make_kernel: Make, make_record: Make, make_error: Make, one_run: Make
) -> None:
    names = [f"kernel-{number}" for number in range(8)]
    records = [
        make_record(
            "failed" if number % 3 == 0 else "passed",
            names[number % 8],
            problem={"head_dim": number},
            errors=(make_error(max_abs=1 + number / 100, bound_units=number / 5000), make_error("dq", number / 1000)),
            test=f"test_{number % 500}",
            message="wrong " * 100,
        )
        for number in range(10_000)
    ]
    loaded = one_run(*records, kernels=tuple(map(make_kernel, names)))
    started = time.process_time()
    html = render(loaded)
    assert time.process_time() - started < 20  # seconds; an order of magnitude above what it takes
    assert len(html.encode()) < 5_000_000


def test_benchmarks_alone_are_a_report() -> None:
    page = Page(render(Loaded(()), [machine(*everything(), text="H200")]))
    assert f"Benchmarks on H200, {len(everything()):,} measurements" in page.lines
    assert "fa2verify benchmark report" in page.lines
    assert [
        line for line in page.lines if line.startswith(("Speed: ", "Peak", "Host", "First", "GPT-2 tr", "Loss "))
    ] == [
        "Speed: flash",
        "Speed: kernel-a",
        "Peak memory",
        "Host cost, µs a call",
        "First call, ms",
        "GPT-2 training, tokens/s",
        "Loss curves",
    ]
    for absent in ("Decoys", "No problem was judged", "Features", "Problems", "No run is recorded."):
        assert not [line for line in page.lines if line.startswith(absent)], absent
    links = {value.removeprefix("#") for value in page.attributes("href")}
    assert links == {"benchmarks0", "environment"}


def test_what_was_not_measured_has_no_section(one_run: Make, make_record: Make) -> None:
    assert "enchmark" not in Page(render(one_run(make_record()))).text
    cost = HostCost(subject="ours", mode="eager", direction="forward", outcome="measured", us=(9.0,))
    page = Page(render(one_run(make_record()), [machine(cost)]))
    assert "Host cost, µs a call" in page.lines
    assert not [line for line in page.lines if line.startswith(("Speed", "Peak", "First call", "GPT-2", "Loss"))]
    assert "svg" not in [tag for tag, attributes in page.elements if attributes.get("class") == "chart"]


def test_verdicts_and_benchmarks_share_the_filter_of_kernels(one_run: Make, make_record: Make) -> None:
    html = render(one_run(make_record(kernel="torch-flash"), kernels=()), [machine(*everything())])
    names = re.findall(r'<input type="checkbox" id="k(\d+)"[^>]*>([^<]*)<', html)
    assert {name for _, name in names} == set(KERNELS)
    number = {name: number for number, name in names}["torch-flash"]
    assert f":root:has(#k{number}:not(:checked)) .k{number} {{ display: none; }}" in html
    assert re.search(rf'<tr class="k{number}"><th scope="row">torch-flash</th>', html)
    assert re.search(rf'<g class="c\d k{number}"><title>torch-flash</title>', html)


def test_every_chart_is_named_and_drawn_in_the_colours_of_its_legend() -> None:
    page = Page(render(Loaded(()), [machine(*everything())]))
    charts = [attributes for tag, attributes in page.elements if attributes.get("class") == "chart"]
    assert len({chart["aria-label"] for chart in charts}) == len(charts) > 40
    assert {chart["role"] for chart in charts} == {"img"}
    html = render(Loaded(()), [machine(*everything())])
    legend = set(re.findall(r'<li class="(c\d) k\d+">([^<]+)</li>', html))
    assert len(legend) == len({colour for colour, _ in legend}) == len(KERNELS)
    assert set(re.findall(r'<g class="(c\d) k\d+"><title>([^<]+)</title>', html)) == legend


def test_every_benchmark_there_is_takes_little_of_the_page() -> None:
    assert len(render(Loaded(()), [machine(*everything())]).encode()) < 500_000
