"""The replayed clock gives pytest-benchmark the very times that were measured."""

from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fa2verify.benchmarks.replay import ReplayClock


class Recorder:
    """What pytest-benchmark's `pedantic` does with a timer."""

    def __init__(self, timer: Callable[[], float]) -> None:
        self.timer = timer
        self.durations: list[float] = []

    def pedantic(
        self, target: Callable[[], Any], setup: Callable[[], Any] = lambda: None, rounds: int = 1, **_: Any
    ) -> None:
        for _round in range(rounds):
            setup()
            start = self.timer()
            target()
            self.durations.append(self.timer() - start)


@given(st.lists(st.floats(1e-7, 1e3), min_size=1))
def test_a_duration_is_told_to_the_last_bit(seconds: list[float]) -> None:
    clock = ReplayClock()
    recorder = Recorder(clock.read)
    clock.play(recorder, seconds)
    assert recorder.durations == seconds
