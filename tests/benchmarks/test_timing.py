"""Interleaved timing: which calls run when, what counts, and what becomes of a call that fails."""

import math
import time
from collections.abc import Callable

import pytest
import torch

from fa2verify.benchmarks.timing import (
    LEAST,
    WARM_UP,
    Call,
    DeviceClock,
    Elapsed,
    WallClock,
    attempt,
    interleave,
)

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


def test_every_round_runs_every_call_once_and_begins_with_another() -> None:
    log: list[str] = []
    laps = interleave({name: logging(log, name) for name in "abc"}, 4, CPU, math.inf, Scripted())
    rounds = ["".join(log[begin : begin + 3]) for begin in range(0, len(log), 3)]
    assert rounds == ["abc", "bca", "cab", "abc", "bca", "cab"]
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


@pytest.mark.parametrize(("given", "rounds"), [({}, LEAST), ({"least": 9}, 9), ({"least": 90}, 50)])
def test_the_deadline_ends_it_after_the_least_number_of_rounds(given: dict[str, int], rounds: int) -> None:
    laps = interleave({"a": lambda: None}, 50, CPU, time.monotonic() - 1, Scripted(), **given)
    assert len(laps.ms["a"]) == rounds


class Drawn(Scripted):
    """A clock that tells the next of the given times, over and over."""

    def __init__(self, times: list[float]) -> None:
        super().__init__()
        self.times = times

    def time(self, call: Call) -> Elapsed:
        super().time(call)
        ms = self.times[self.started % len(self.times)]
        return lambda: ms


STEADY, WILD = [100.0, 100.5, 101.0], [100.0, 110.0]


@pytest.mark.parametrize(("times", "most", "rounds"), [(STEADY, 40, 8), (WILD, 40, 40), (WILD, 0, 8)])
def test_rounds_go_on_while_a_median_is_not_sure(times: list[float], most: int, rounds: int) -> None:
    laps = interleave({"a": lambda: None}, 8, CPU, math.inf, Drawn(times), most=most)
    assert len(laps.ms["a"]) == rounds


def test_a_call_that_failed_need_not_be_sure() -> None:
    def fail() -> None:
        raise KeyError

    laps = interleave({"bad": fail, "good": lambda: None}, 8, CPU, math.inf, Drawn(STEADY), most=40)
    assert {name: len(ms) for name, ms in laps.ms.items()} == {"good": 8}


def test_too_few_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="2 rounds are too few; a median with its spread takes at least 3"):
        interleave({"a": lambda: None}, 2, CPU, math.inf, Scripted())


def test_the_wall_clock_tells_milliseconds() -> None:
    begin = time.perf_counter()
    elapsed = WallClock().time(lambda: time.sleep(0.02))
    most = (time.perf_counter() - begin) * 1e3
    assert 20 <= elapsed() <= most


class Simulated:
    """A device of 2 GHz and its host, in milliseconds: what `DeviceClock` sees of CUDA."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.host = self.device = 0.0
        simulated = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self) -> None:
                simulated.queue(0.0)
                self.at = simulated.device

            def query(self) -> bool:
                return self.at <= simulated.host

            def elapsed_time(self, end: "Event") -> float:
                return end.at - self.at

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: self.queue(cycles / 2e6))

    def queue(self, ms: float) -> None:
        """Work of `ms`; it begins when the device is free and the host has come to it."""
        self.device = max(self.device, self.host) + ms

    def call(self, host: float, device: float) -> Call:
        def call() -> None:
            self.host += host
            self.queue(device)

        return call

    def settle(self) -> None:
        self.host = self.device = max(self.host, self.device)


@pytest.mark.parametrize("host", [0.1, 0.6, 5.0, 30.0])
def test_the_devices_time_is_not_the_hosts(host: float, monkeypatch: pytest.MonkeyPatch) -> None:
    simulated = Simulated(monkeypatch)
    clock, call = DeviceClock("cpu"), simulated.call(host, device=0.25)
    assert clock.time(call)() == pytest.approx(0.25)
    simulated.settle()
    # What was learned is kept: the next round queues the call once.
    before = simulated.host
    assert clock.time(call)() == pytest.approx(0.25)
    assert simulated.host - before == pytest.approx(host)


def test_a_call_that_waits_for_the_device_is_timed_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    simulated = Simulated(monkeypatch)

    def waiting() -> None:
        simulated.queue(0.25)
        simulated.settle()
        simulated.host += 0.5

    assert DeviceClock("cpu").time(waiting)() == pytest.approx(0.75)
