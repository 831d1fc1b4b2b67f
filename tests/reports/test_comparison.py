import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from fa2verify.reports.comparison import Comparison, NothingInCommon, compare
from fa2verify.reports.record import Record
from fa2verify.reports.store import Loaded

Make = Callable[..., Any]


def fates(turned: Sequence[Any]) -> list[tuple[int, str, str]]:
    return [(one.a.problem["seed"], one.a.verdict, one.b.verdict) for one in turned]


def test_the_same_problems_one_by_one(make_record: Make, one_run: Make) -> None:
    def run(*verdicts: str) -> Loaded:
        return one_run(*(make_record(verdict, problem={"seed": seed}) for seed, verdict in enumerate(verdicts)))

    a = run("passed", "passed", "failed", "crashed", "passed", "unsupported", "failed")
    found = compare(a, run("passed", "timed_out", "passed", "failed", "unsupported", "passed", "unsupported"))
    assert found.common == 4
    assert fates(found.fails) == [(1, "passed", "timed_out")]
    assert fates(found.passes) == [(2, "failed", "passed")]
    assert fates(found.narrowed) == [(4, "passed", "unsupported"), (6, "failed", "unsupported")]
    assert found.worse
    assert not compare(a, a).worse


def test_fields_in_another_order_are_the_same_problem(make_record: Make, one_run: Make) -> None:
    a, b = ({"seed": 1, "head_dim": 8}, {"head_dim": 8, "seed": 1})
    assert compare(one_run(make_record(problem=a)), one_run(make_record("failed", problem=b))).fails


def test_a_problem_drawn_twice_is_as_bad_as_its_worst_verdict(make_record: Make, one_run: Make) -> None:
    good, bad = make_record(), make_record("failed")
    for records in ((good, bad), (bad, good)):
        assert compare(one_run(good), one_run(*records)).fails


def rates(loaded: tuple[Loaded, Loaded]) -> dict[str | None, bool]:
    return {shift.feature: shift.worse for shift in compare(*loaded).rates}


@pytest.fixture
def drawn(make_record: Make, one_run: Make) -> Callable[..., Loaded]:
    """A run of 300 problems of its own, of which `failing` fail and one in three has the feature "window"."""

    def make(side: str, failing: range) -> Loaded:
        return one_run(
            *(
                make_record(
                    "failed" if number in failing else "passed",
                    problem={"side": side, "seed": number},
                    features=("causal", "window") if number < 100 else ("causal",),
                )
                for number in range(300)
            )
        )

    return make


def test_other_problems_by_rates(drawn: Callable[..., Loaded]) -> None:
    none, some, luck = drawn("a", range(0)), drawn("b", range(80, 100)), drawn("b", range(98, 100))
    assert rates((none, some)) == {None: True, "causal": True, "window": True}
    assert rates((some, none)) == {None: False, "causal": False, "window": False}
    assert rates((none, luck)) == {None: False, "causal": False, "window": False}
    assert compare(none, some).worse
    assert not compare(some, none).worse


def test_the_same_problems_are_not_counted_as_rates(drawn: Callable[..., Loaded]) -> None:
    found = compare(drawn("a", range(0)), drawn("a", range(80, 100)))
    assert (len(found.fails), found.rates) == (20, ())


@pytest.fixture
def measured(make_record: Make, make_error: Make, one_run: Make) -> Callable[..., Loaded]:
    """A run whose problems reached these shares of the bound in dq; the ratio to PyTorch's stays."""

    def make(side: str, shares: Sequence[float]) -> Loaded:
        records: list[Record] = [
            make_record(problem={"side": side, "seed": seed}, errors=(make_error("dq", bound_units=share),))
            for seed, share in enumerate(shares)
        ]
        return one_run(*records)

    return make


def grown(found: Comparison) -> list[tuple[str, str, bool]]:
    return [(shift.output, shift.measure, shift.paired) for shift in found.errors if shift.worse]


@pytest.mark.parametrize(("side", "paired"), [("a", True), ("b", False)])
def test_errors_that_grew(measured: Callable[..., Loaded], side: str, paired: bool) -> None:
    draw = random.Random(0)
    before = [draw.uniform(0.1, 0.3) for _ in range(100)]
    a = measured("a", before)
    assert grown(compare(a, measured(side, [1.5 * share for share in before]))) == [
        ("dq", "share of the bound", paired)
    ]
    assert not grown(compare(a, measured(side, [share / 1.5 for share in before])))
    assert not grown(compare(a, measured(side, [1.05 * share for share in before])))  # sure, and too little to matter
    assert not grown(compare(measured("a", before[:5]), measured(side, [1.5 * share for share in before[:5]])))


def test_runs_that_draw_alike_are_not_worse(measured: Callable[..., Loaded]) -> None:
    # Holm keeps the chance of a false alarm below 0.01 a comparison, so 6 of 100 have a probability below 0.001.
    draw = random.Random(1)
    alarms = sum(
        bool(grown(compare(*(measured(side, [draw.lognormvariate(0, 1) for _ in range(30)]) for side in "ab"))))
        for _ in range(100)
    )
    assert alarms < 6


def test_an_error_that_is_no_number_is_the_largest(make_record: Make, make_error: Make, one_run: Make) -> None:
    def run(error: float) -> Loaded:
        errors = (make_error("dq", error, bound_units=error),)
        return one_run(*(make_record(problem={"seed": seed}, errors=errors) for seed in range(20)))

    a, b = run(0.1), run(math.nan)
    assert grown(compare(a, b)) == [("dq", "share of the bound", True), ("dq", "ratio to PyTorch's error", True)]
    assert not grown(compare(b, b))


def test_nothing_in_common(make_record: Make, one_run: Make) -> None:
    with pytest.raises(NothingInCommon, match="A has x; B has none"):
        compare(one_run(make_record(kernel="x")), one_run(make_record("unsupported", kernel="x")))


def test_kernels_of_one_side_and_environments(make_record: Make, make_run: Make, one_run: Make) -> None:
    a = one_run(make_record(), make_record(kernel="old"))
    b = one_run(make_record(), make_record(kernel="new"))
    b = replace(b, parts=(replace(b.parts[0], run=make_run("run-2", environment={"python": "3.11.2", "gpu": "H200"})),))
    found = compare(a, b)
    assert (found.only_a, found.only_b) == (("old",), ("new",))
    assert found.environment == {"torch": ("2.13.0", ""), "gpu": ("", "H200")}
