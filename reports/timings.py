"""What got slower between two benchmark runs: the same kernels on the same cells, timed in interleaved rounds.

Clocks drift by 5 to 10 % between runs, so times of two runs are not comparable. Within one run every round times every
kernel, so what is compared is each round's time over that of a reference kernel in the same round. Rounds of one run
say nothing about how runs differ, so a cell must also move by more than runs of the same code do.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from fa2verify.reports import significance
from fa2verify.reports.benchmark_record import Timing
from fa2verify.reports.failures import compact

NOISE = 1.05  # ratios of medians move by up to 3 % between runs of the same code; a cell must move by more than this
Cell = tuple[str, str, str]  # cell, problem as text, direction: a name alone may stand for another problem tomorrow
Key = tuple[str, Cell]  # kernel, cell


class TimingsError(ValueError):
    """Timings that cannot be compared; the message says which, and what would be right."""


@dataclass(frozen=True, slots=True)
class Pace:
    """One kernel on one cell in both runs.

    name     kernel, direction and cell
    a, b     median of its time over the reference kernel's in the same round
    p_slower, p_faster  corrected, that B is so much slower, or faster, by chance
    """

    name: str
    a: float
    b: float
    p_slower: float
    p_faster: float

    @property
    def slower(self) -> bool:
        """Whether B is slower, beyond chance and noise."""
        return self.p_slower < significance.LEVEL and self.b / self.a > NOISE

    @property
    def faster(self) -> bool:
        """Whether B is faster, beyond chance and noise."""
        return self.p_faster < significance.LEVEL and self.a / self.b > NOISE


@dataclass(frozen=True, slots=True)
class Paces:
    """What was timed in both runs.

    over     for each kernel and cell that the reference kernel has times for
    without  how many kernels and cells it has none for, so that they are not compared
    """

    over: tuple[Pace, ...]
    without: int


def paces(a: Sequence[Timing], b: Sequence[Timing], against: str) -> Paces:
    """Every kernel and cell that both runs timed, over `against`; nothing if no kernel but that one was timed in both.

    Raises TimingsError where `against` shares no round with any of them, and for times that are none.
    """
    times_a, times_b = _times(a), _times(b)
    both = [key for key in times_a if key in times_b and key[0] != against]
    based = [key for key in both if all((against, key[1]) in times for times in (times_a, times_b))]
    if both and not based:
        known = ", ".join(dict.fromkeys(kernel for times in (times_a, times_b) for kernel, _ in times))
        raise TimingsError(
            f"no cell was timed in both runs with {against!r} and another kernel; name one that was with --against; "
            f"the runs have {known}"
        )
    found = [_pace(key, _over(key, times_a, against), _over(key, times_b, against)) for key in based]
    corrected = significance.holm([p for pace in found for p in (pace.p_slower, pace.p_faster)])
    over = (
        replace(pace, p_slower=corrected[2 * number], p_faster=corrected[2 * number + 1])
        for number, pace in enumerate(found)
    )
    return Paces(tuple(over), len(both) - len(based))


def _times(timings: Sequence[Timing]) -> dict[Key, tuple[float, ...]]:
    found: dict[Key, tuple[float, ...]] = {}
    for line in timings:
        if line.outcome != "measured":
            continue
        key = line.kernel, (line.cell, compact(dict(sorted(line.problem.items()))), line.direction)
        if not line.ms or not all(0 < ms < math.inf for ms in line.ms):
            raise TimingsError(f"{_name(key)}: measured, but ms is {list(line.ms)}; every round's must be positive")
        found[key] = line.ms
    return found


def _over(key: Key, times: Mapping[Key, tuple[float, ...]], against: str) -> list[float]:
    mine, its = times[key], times[against, key[1]]
    if len(mine) != len(its):
        raise TimingsError(
            f"{_name(key)}: {len(mine)} rounds, but {len(its)} of {against}; of the same rounds there are as many"
        )
    return [one / other for one, other in zip(mine, its, strict=True)]


def _pace(key: Key, a: list[float], b: list[float]) -> Pace:
    medians = statistics.median(a), statistics.median(b)
    return Pace(_name(key), *medians, significance.samples(a, b), significance.samples(b, a))


def _name(key: Key) -> str:
    kernel, (cell, _, direction) = key
    return f"{kernel} {direction}, {cell}"
