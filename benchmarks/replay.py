"""A clock that tells times which were measured elsewhere, so that pytest-benchmark keeps the statistics of them.

pytest-benchmark times a function by reading a timer before and after it. Kernels are timed by the device's events, all
of them in the same rounds, before any of their tests runs. So its documented `timer` is this clock, and the function
that it times moves the clock on by one measured time: the difference it takes is that time, to the last bit, as every
round begins at zero.
"""

from collections.abc import Sequence
from typing import Any

import pytest


class ReplayClock:
    """A timer in seconds that stands still but for `tick`."""

    def __init__(self) -> None:
        self._now = 0.0
        self._left: list[float] = []

    def read(self) -> float:
        """The time."""
        return self._now

    def rewind(self) -> None:
        """Back to zero."""
        self._now = 0.0

    def tick(self) -> None:
        """Move on by the next time."""
        self._now += self._left.pop(0)

    def play(self, benchmark: Any, seconds: Sequence[float]) -> None:
        """Let pytest-benchmark's fixture `benchmark` measure each of `seconds` as one round.

        The test carries `pytest.mark.benchmark(timer=clock.read)`.
        """
        self._left = list(seconds)
        benchmark.pedantic(self.tick, setup=self.rewind, rounds=len(seconds), iterations=1, warmup_rounds=0)


CLOCK = ReplayClock()


def benchmark_mark(group: str) -> pytest.MarkDecorator:
    """The mark of a test that plays times; pytest-benchmark shows the tests of a group beside each other."""
    return pytest.mark.benchmark(timer=CLOCK.read, group=group)
