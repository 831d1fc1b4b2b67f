from collections.abc import Callable
from typing import Any

from fa2verify.reports.matrix import matrix
from fa2verify.reports.store import Loaded
from fa2verify.reports.summary import summarize

Make = Callable[..., Any]


def cells(loaded: Loaded) -> dict[str, tuple[tuple[str, int, int, tuple[str, ...]], ...]]:
    found = matrix(loaded, summarize(loaded))
    return {
        feature: tuple((cell.state, cell.judged, cell.unsupported, cell.reasons) for cell in row)
        for feature, row in found.items()
    }


def test_cells_by_hand(make_kernel: Make, make_record: Make, one_run: Make) -> None:
    kernels = (make_kernel("a", unsupported={"dropout": ("No dropout.", "Not ever.")}), make_kernel("b"))
    loaded = one_run(
        make_record("passed", "a", features=("float16", "causal")),
        make_record("unsupported", "a", features=("float16", "dropout"), reasons=("No dropout.",)),
        make_record("failed", "b", features=("float16", "causal")),
        make_record("crashed", "b", features=("causal",)),
        make_record("passed", "b", features=("float16",)),
        make_record("unsupported", "b", features=("dropout",), reasons=("Seeds only.",)),
        make_record("passed", "b", features=("late",)),
        kernels=kernels,
    )
    assert cells(loaded) == {
        "float16": (("passed", 1, 1, ()), ("failed", 2, 0, ())),
        "causal": (("passed", 1, 0, ()), ("failed", 2, 0, ())),
        "dropout": (("unsupported", 0, 1, ("No dropout.", "Not ever.")), ("unsupported", 0, 1, ("Seeds only.",))),
        "late": (("untested", 0, 0, ()), ("passed", 1, 0, ())),
    }


def test_a_declared_feature_that_nobody_asked_for_is_still_unsupported(make_kernel: Make, one_run: Make) -> None:
    loaded = one_run(kernels=(make_kernel(unsupported={"dropout": ("No dropout.",)}),))
    assert cells(loaded)["dropout"] == (("unsupported", 0, 0, ("No dropout.",)),)


def test_what_a_kernel_takes_is_judged_whatever_it_declares(
    make_kernel: Make, make_record: Make, one_run: Make
) -> None:
    kernels = (make_kernel(unsupported={"dropout": ("No dropout.",)}),)
    loaded = one_run(make_record("failed", features=("dropout",)), kernels=kernels)
    assert cells(loaded)["dropout"] == (("failed", 1, 0, ()),)


def test_a_feature_of_which_only_known_failures_were_met(make_record: Make, one_run: Make) -> None:
    met = make_record("known", features=("causal",), known="a-fault")
    assert cells(one_run(met))["causal"] == (("known", 0, 0, ()),)
    assert cells(one_run(met, make_record(features=("causal",))))["causal"] == (("passed", 1, 0, ()),)
    assert cells(one_run(met, make_record("failed", features=("causal",))))["causal"] == (("failed", 1, 0, ()),)


def test_only_the_reasons_that_all_problems_share_are_given(make_record: Make, one_run: Make) -> None:
    first = make_record("unsupported", features=("causal",), reasons=("No dropout.", "No causal mask."))
    second = make_record("unsupported", features=("causal",), reasons=("No causal mask.", "No ALiBi."))
    other = make_record("unsupported", features=("causal",), reasons=("No ALiBi.",))
    assert cells(one_run(first, second))["causal"][0][-1] == ("No causal mask.",)
    assert cells(one_run(first, other))["causal"][0][-1] == ("No dropout.", "No causal mask.", "No ALiBi.")


def test_a_shrunk_failure_is_not_counted_twice(make_record: Make, one_run: Make) -> None:
    loaded = one_run(make_record("failed"), make_record("failed", phase="shrunk"))
    assert cells(loaded)["float16"] == (("failed", 1, 0, ()),)
