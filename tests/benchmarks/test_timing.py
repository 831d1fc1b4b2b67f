"""Interleaved timing: which calls run when, what counts, and what becomes of a call that fails."""

import math
import time
from collections.abc import Callable

import pytest
import torch

from fa2verify.benchmarks.timing import LEAST, WARM_UP, Call, Elapsed, WallClock, attempt, interleave

CPU = torch.device("cpu")


class Scripted:
    """A clock that tells the number of the call instead of its time, once it has settled."""

    def __init__(self) -> None:
        self.started = 0
        self.settled = 0

    def time(self, call: Call) -> Elapsed:
        call()
        self.started += 1
        number = self.started

        def elapsed() -> float:
            assert self.settled >= number, "read before the device was done"
            return float(number)

        return elapsed

    def settle(self) -> None:
        self.settled = self.started


def logging(log: list[str], name: str) -> Callable[[], None]:
    return lambda: log.append(name)


def test_every_round_runs_every_call_once() -> None:
    log: list[str] = []
    laps = interleave({name: logging(log, name) for name in "abc"}, 4, CPU, math.inf, Scripted())
    assert log == list("abc") * (WARM_UP + 4)
    assert {name: len(ms) for name, ms in laps.ms.items()} == {"a": 4, "b": 4, "c": 4}


def test_the_warm_up_does_not_count() -> None:
    laps = interleave({"a": lambda: None}, 3, CPU, math.inf, Scripted())
    assert laps.ms["a"] == tuple(float(WARM_UP + number) for number in (1, 2, 3))


def test_a_call_that_fails_leaves_and_the_others_go_on() -> None:
    calls = 0

    def third_time_unlucky() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise torch.OutOfMemoryError("no room\nfor this")

    laps = interleave({"bad": third_time_unlucky, "good": lambda: None}, 5, CPU, math.inf, Scripted())
    assert calls == 3
    assert set(laps.ms) == {"good"}
    assert len(laps.ms["good"]) == 5
    assert laps.failures["bad"].outcome == "out_of_memory"
    assert laps.failures["bad"].message == "no room"


def test_any_other_error_is_a_failure_with_its_name() -> None:
    def wrong() -> None:
        raise KeyError("x")

    failure = attempt(wrong, CPU)
    assert failure is not None
    assert (failure.outcome, failure.message) == ("failed", "KeyError: 'x'")
    assert attempt(lambda: None, CPU) is None


def test_the_deadline_ends_it_after_the_least_number_of_rounds() -> None:
    laps = interleave({"a": lambda: None}, 50, CPU, time.monotonic() - 1, Scripted())
    assert len(laps.ms["a"]) == LEAST


def test_too_few_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="2 rounds are too few; a median with its spread takes at least 3"):
        interleave({"a": lambda: None}, 2, CPU, math.inf, Scripted())


def test_the_wall_clock_tells_milliseconds() -> None:
    begin = time.perf_counter()
    elapsed = WallClock().time(lambda: time.sleep(0.02))
    most = (time.perf_counter() - begin) * 1e3
    assert 20 <= elapsed() <= most
