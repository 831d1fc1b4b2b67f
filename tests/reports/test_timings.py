"""Times of two benchmark runs: what the clock explains, what chance does, and what cannot be compared."""

import math
from typing import Any

import pytest

from fa2verify.reports.benchmark_record import Timing
from fa2verify.reports.timings import TimingsError, paces


def timing(kernel: str, ms: tuple[float, ...], **fields: Any) -> Timing:
    known: dict[str, Any] = {"cell": "flash-d64", "direction": "forward", "problem": {"dtype": "bfloat16"}}
    return Timing(grid="flash", kernel=kernel, ms=ms, outcome="measured", **{**known, **fields})


def run(**ms: tuple[float, ...]) -> list[Timing]:
    return [timing(kernel, times) for kernel, times in ms.items()]


STEADY = (1.0, 1.01, 1.02, 1.03, 1.04, 1.05, 1.06, 1.07)


def times(factor: float) -> tuple[float, ...]:
    return tuple(factor * one for one in STEADY)


@pytest.mark.parametrize(
    ("drift", "change", "slower", "faster"),
    [(1.0, 1.2, True, False), (1.3, 1.0, False, False), (1.0, 1.04, False, False), (0.8, 0.7, False, True)],
)
def test_only_what_the_clock_does_not_explain(drift: float, change: float, slower: bool, faster: bool) -> None:
    a = run(base=STEADY, ours=times(2.0))
    b = run(base=times(drift), ours=times(2.0 * drift * change))
    (pace,) = paces(a, b, "base").over
    assert (pace.slower, pace.faster) == (slower, faster)
    assert (pace.a, pace.b) == pytest.approx((2.0, 2.0 * change))
    assert pace.name == "ours forward, flash-d64"


def test_rounds_that_overlap_are_noise() -> None:
    a, b = (1.0, 1.5, 1.1, 1.4, 1.2, 1.3), (1.1, 1.6, 1.2, 1.5, 1.3, 1.4)
    (pace,) = paces(run(base=(1.0,) * 6, ours=a), run(base=(1.0,) * 6, ours=b), "base").over
    assert pace.b / pace.a > 1.05
    assert not pace.slower


def test_directions_have_their_own_reference() -> None:
    a = [
        timing(kernel, (ms,) * 8, direction=direction)
        for kernel, direction, ms in (("base", "forward", 1.0), ("base", "backward", 4.0), ("ours", "backward", 2.0))
    ]
    (pace,) = paces(a, a, "base").over
    assert (pace.name, pace.a) == ("ours backward, flash-d64", 0.5)


def test_another_problem_under_the_same_name_is_another_cell() -> None:
    other = [timing(kernel, STEADY, problem={"dtype": "float16"}) for kernel in ("base", "ours")]
    found = paces(run(base=STEADY, ours=STEADY), other, "base")
    assert (found.over, found.without) == ((), 0)


def test_cells_that_the_reference_was_not_timed_on_are_counted() -> None:
    more = [timing("ours", STEADY, cell="flash-d256")]
    found = paces([*run(base=STEADY, ours=STEADY), *more], [*run(base=STEADY, ours=STEADY), *more], "base")
    assert (len(found.over), found.without) == (1, 1)


def test_runs_without_the_reference_kernel() -> None:
    with pytest.raises(TimingsError, match=r"with 'flash' and another kernel.*--against; the runs have base, ours"):
        paces(run(base=STEADY, ours=STEADY), run(base=STEADY, ours=STEADY), "flash")


def test_rounds_that_are_not_the_same_are_refused() -> None:
    with pytest.raises(TimingsError, match="ours forward, flash-d64: 7 rounds, but 8 of base"):
        paces(run(base=STEADY, ours=STEADY), run(base=STEADY, ours=STEADY[1:]), "base")


@pytest.mark.parametrize("ms", [(), (0.0,), (1.0, -1.0), (math.inf,), (math.nan,)])
def test_times_that_are_none_are_refused(ms: tuple[float, ...]) -> None:
    with pytest.raises(TimingsError, match="ours forward, flash-d64: measured, but ms is"):
        paces(run(base=STEADY, ours=ms), run(base=STEADY, ours=STEADY), "base")
