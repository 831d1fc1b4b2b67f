"""Known failures in the report: what each entry covered, and how much of that passed."""

from collections.abc import Callable
from typing import Any

from fa2verify.reports.html import render
from fa2verify.reports.known import known_failures
from fa2verify.reports.record import Known

Make = Callable[..., Any]

FAULT = Known(name="a-fault", says="It adds one.", link="https://example.org/1", where="torch ==2.13.*, cpu")
QUIET = Known(name="quiet", says="Never met here.", link="docs/findings/quiet.md", where="everywhere")


def test_tallies_by_hand(make_kernel: Make, make_record: Make, one_run: Make) -> None:
    loaded = one_run(
        make_record("passed", "other"),
        make_record("known", problem={"head_dim": 1}, known="a-fault"),
        make_record("known", problem={"head_dim": 2}, known="a-fault"),
        make_record("passed", known="a-fault"),
        make_record("crashed", problem={"head_dim": 3}, known="a-fault"),
        make_record("crashed", problem={"head_dim": 3}, known="a-fault", phase="shrunk"),
        make_record("known", "other", known="lost"),
        kernels=(make_kernel(known=(FAULT, QUIET)), make_kernel("other")),
    )
    assert [(one.kernel, one.name, one.entry, one.failed, one.passed, one.other) for one in known_failures(loaded)] == [
        ("ours", "a-fault", FAULT, 2, 1, 1),
        ("ours", "quiet", QUIET, 0, 0, 0),
        ("other", "lost", None, 1, 0, 0),
    ]
    assert [one.line for one in known_failures(loaded)] == [
        "ours: known failure a-fault (https://example.org/1): 2 problems failed as known; it is wider than the fault: "
        "1 of 3 passed; 1 failed in another way",
        "ours: known failure quiet (docs/findings/quiet.md): no problem of it was tried",
        "other: known failure lost: 1 problem failed as known",
    ]


def test_on_the_page(make_kernel: Make, make_record: Make, one_run: Make) -> None:
    hostile = Known(name="<b>", says="<script>", link='https://example.org/"><i>', where="torch")
    page = render(
        one_run(
            make_record("known", known="a-fault"),
            make_record("known", problem={}, known="<b>"),
            kernels=(make_kernel(known=(FAULT, hostile)),),
        )
    )
    assert '<a href="#known">Known failures</a>' in page
    assert '<a href="#known">2</a>' in page, "the kernel's count leads there"
    assert '<a href="#known">2 known failures</a>' in page, "so does the feature's cell"
    assert "It adds one. Expected with torch ==2.13.*, cpu; see https://example.org/1." in page
    assert "&lt;script&gt;" in page
    assert "<i>" not in page
    assert 'id="failures"' not in page


def test_a_page_without_known_failures_says_nothing_of_them(make_record: Make, one_run: Make) -> None:
    assert "#known" not in render(one_run(make_record()))
