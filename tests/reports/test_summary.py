from collections.abc import Callable
from typing import Any

import pytest

from fa2verify.reports.record import Record
from fa2verify.reports.store import Loaded, RunRecords
from fa2verify.reports.summary import counted, lines, plural, sentence, short, summarize

Make = Callable[..., Any]


@pytest.fixture
def example(make_record: Make, make_error: Make) -> tuple[Record, ...]:
    """Four problems that were drawn, of which one failed and one was not taken, and one failure that was shrunk."""
    failing = {"head_dim": 7}
    return (
        make_record(
            errors=(make_error("out", 0.5, 1.0), make_error("dq", 3.0, 2.0, bound_units=0.3)),
            decoys={"zeros": "caught", "mean of V": "too_close"},
        ),
        make_record(errors=(make_error("out", 1.5, 1.0, bound_units=0.9, limit=3.0),), decoys={"zeros": "caught"}),
        make_record(
            "failed",
            problem=failing,
            rule="R2",
            errors=(make_error("out", 4.0, 1.0, bound_units=2.0),),
            decoys={"zeros": "missed"},
        ),
        make_record("unsupported", reasons=("No dropout.",)),
        make_record("failed", problem=failing, rule="R2", phase="shrunk", errors=(make_error("out", 99.0, 1.0),)),
    )


def test_numbers_by_hand(example: tuple[Record, ...], one_run: Make) -> None:
    (summary,) = summarize(one_run(*example))
    assert summary.counts == {"passed": 2, "failed": 1, "crashed": 0, "timed_out": 0, "unsupported": 1, "known": 0}
    assert (summary.judged, summary.bad, summary.status) == (3, 1, "failed")
    assert (summary.ratios["out"].median, summary.ratios["out"].worst) == (1.5, 4.0)
    assert (summary.ratios["gradients"].median, summary.ratios["gradients"].worst) == (1.5, 1.5)
    assert summary.worst_share == 2.0
    assert summary.decoys == {
        "zeros": {"caught": 2, "missed": 1, "too_close": 0},
        "mean of V": {"caught": 0, "missed": 0, "too_close": 1},
    }
    assert summary.never_caught == ("mean of V",)
    assert summary.reasons == {"No dropout.": 1}
    assert summary.first_failure is example[-1]


def test_a_shrunk_problem_counts_only_if_it_was_not_drawn(make_record: Make) -> None:
    drawn = make_record("failed", problem={"head_dim": 8, "causal": None})
    retold = make_record("failed", problem={"causal": None, "head_dim": 8}, phase="shrunk")
    other = make_record("crashed", problem={"head_dim": 8, "causal": None}, phase="shrunk")
    assert counted((drawn, retold, other)) == (drawn, other)


def test_status_needs_a_problem_that_passed(make_kernel: Make, make_record: Make, one_run: Make) -> None:
    kernels = (
        make_kernel("idle"),
        make_kernel("away", unavailable=("No GPU.",)),
        make_kernel("picky"),
        make_kernel("slow"),
    )
    records = (
        make_record("unsupported", "picky"),
        make_record("timed_out", "slow"),
        make_record("passed", "stranger"),
    )
    found = summarize(one_run(*records, kernels=kernels))
    assert [(summary.name, summary.status) for summary in found] == [
        ("idle", "not judged"),
        ("away", "unavailable"),
        ("picky", "not judged"),
        ("slow", "failed"),
        ("stranger", "passed"),
    ]


def test_entries_of_several_runs_are_joined(make_run: Make, make_kernel: Make, make_record: Make) -> None:
    here = RunRecords(make_run("cpu"), (make_kernel("k", unavailable=("No GPU.",)),), ())
    there = RunRecords(make_run("gpu"), (make_kernel("k", lineage="fork"),), (make_record("passed", "k"),))
    (summary,) = summarize(Loaded((here, there)))
    assert (summary.lineages, summary.unavailable) == (("fa2verify", "fork"), ("No GPU.",))
    assert summary.status == "passed"


def test_sentences(make_record: Make, one_run: Make) -> None:
    def said(*records: Record) -> str:
        return sentence(summarize(one_run(*records)))

    assert said() == "No problem was judged"
    assert said(make_record("unsupported")) == "No problem was judged"
    assert said(make_record()) == "1 kernel, 1 problem, all passed"
    many = [make_record(kernel=name) for name in ("a", "b") for _ in range(602)]
    assert said(*many) == "2 kernels, 1,204 problems, all passed"
    bad = [make_record("crashed", kernel) for kernel in "vwxyz"]
    assert (
        said(*many, *bad, make_record("failed", "v"))
        == "7 kernels, 1,210 problems: 6 did not pass, in 5 kernels (v, w, x and 2 more)"
    )
    known = make_record("known", known="a-fault")
    assert said(known) == "No problem was judged (and 1 known failure)"
    assert said(make_record(), known, known) == "1 kernel, 1 problem, all passed (and 2 known failures)"
    assert (
        said(make_record("failed"), known)
        == "1 kernel, 1 problem: 1 did not pass, in 1 kernel (ours) (and 1 known failure)"
    )


def test_a_known_failure_is_no_failure_and_no_pass(make_record: Make, one_run: Make) -> None:
    (summary,) = summarize(one_run(make_record("known", known="a-fault")))
    assert (summary.judged, summary.bad, summary.status, summary.first_failure) == (0, 0, "not judged", None)
    (summary,) = summarize(one_run(make_record("known", known="a-fault"), make_record()))
    assert (summary.judged, summary.status, summary.counts["known"]) == (1, "passed", 1)


def test_terminal_lines(
    example: tuple[Record, ...], make_kernel: Make, make_record: Make, make_error: Make, one_run: Make
) -> None:
    kernels = (make_kernel(), make_kernel("far-away", unavailable=("No GPU.",)), make_kernel("idle"))
    forward = make_record(kernel="fwd", errors=(make_error("lse", 1.0, None, bound_units=0.41),))
    counts = "{:6} passed  {:6} failed       0 crashed       0 timed out  {:6} unsupported       0 known failures"
    worst = "median 1.50x PyTorch's error in out and 1.50x in gradients, at most 2.00 of the bound"
    assert lines(summarize(one_run(*example, forward, kernels=kernels))) == (
        f"ours      {counts.format(2, 1, 1)}  {worst}",
        "far-away  left out: No GPU.",
        f"idle      {counts.format(0, 0, 0)}  nothing judged",
        f"fwd       {counts.format(1, 0, 0)}  at most 0.410 of the bound",
    )


def test_a_long_name_costs_only_its_own_line(make_record: Make, one_run: Make) -> None:
    found = summarize(one_run(make_record("failed", "n" * 100), make_record(kernel="short"), kernels=()))
    assert sentence(found).endswith(f"({'n' * 39}…)")
    long, short_line = lines(found)
    assert long.startswith("n" * 100 + "  ")
    assert short_line.startswith("short" + " " * 37)
    assert short_line[42:].startswith("     1 passed")


def test_a_name_cannot_rewrite_the_terminal(make_record: Make, one_run: Make) -> None:
    (line,) = lines(summarize(one_run(make_record(kernel="a\x1b[2J\nb"), kernels=())))
    assert line.startswith(r"a\x1b[2J\nb  ")
    assert line.isprintable()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "\N{EN DASH}"),
        (0.0, "0.00"),
        (1.0, "1.00"),
        (0.41, "0.410"),
        (123.4, "123"),
        (1234.5, "1,234"),
        (2.5e7, "2.50e+07"),
        (1e-5, "1.00e-05"),
        (float("inf"), "∞"),
    ],
)
def test_short_numbers(value: float | None, text: str) -> None:
    assert short(value) == text


def test_plurals() -> None:
    assert [plural(count, "kernel") for count in (0, 1, 1204)] == ["0 kernels", "1 kernel", "1,204 kernels"]
