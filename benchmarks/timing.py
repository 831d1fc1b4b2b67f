"""Times calls side by side: in one process, rounds interleaved, by the device's own clock.

Clock and power drift by 5 to 10 % over a run, so that neither two runs are comparable nor two kernels timed one after
the other. Every round runs each call once and drift meets all alike; what counts is the ratio of medians. Each round
begins with another call: the first finds an idle device and an empty queue, which beside a busy host cost the one that
was always first 3.5 %. Before each call the L2 cache is overwritten, and then the device spins long enough for the host
to have queued the whole call, so that the time between two events is the device's alone.
"""

import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Generic, Protocol, TypeVar

import torch

from fa2verify.reports.benchmark_record import Outcome
from fa2verify.reports.medians import SURE, uncertainty
from fa2verify.verify.trial.attempt import ContextLost

Call = Callable[[], object]
Key = TypeVar("Key", bound=Hashable)
Elapsed = Callable[[], float]

WARM_UP = 2
LEAST = 3  # a median of fewer rounds has no spread to show
_FLUSH_BYTES = 256 * 2**20  # several times the largest L2
# About half a millisecond, more than the host needs for most calls, and 30.
_SPIN_CYCLES, _MOST_CYCLES = 1_000_000, 64_000_000


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a call has no time: the outcome for its record, and the first line of what it raised."""

    outcome: Outcome
    message: str


@dataclass(frozen=True, slots=True)
class Laps(Generic[Key]):
    """Milliseconds of every round that counted, and calls that failed in one."""

    ms: dict[Key, tuple[float, ...]]
    failures: dict[Key, Failure] = field(default_factory=dict)


class Clock(Protocol):
    """Measures one call; its answer is read after `settle`."""

    def time(self, call: Call) -> Elapsed:
        """Start `call` and give what will tell its milliseconds."""

    def settle(self) -> None:
        """Wait until every call that was started has ended."""


class DeviceClock:
    """CUDA events around a call on the current stream.

    A time in which the device waited for the host is not taken: the call is queued again behind a longer spin, which
    its later rounds begin with. A call that waits for the device by itself is timed with its waiting.
    """

    def __init__(self, device: str = "cuda") -> None:
        self._flush = torch.empty(_FLUSH_BYTES, dtype=torch.uint8, device=device)
        self._cycles: dict[Call, int] = {}

    def time(self, call: Call) -> Elapsed:
        """Queue the call between two events, behind a cold cache."""
        while True:
            cycles = self._cycles.get(call, _SPIN_CYCLES)
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            self._flush.zero_()
            torch.cuda._sleep(min(cycles, _MOST_CYCLES))  # type: ignore[no-untyped-call]
            begin.record()
            call()
            end.record()
            # Where the device has come to the first event only now, it found the whole call queued.
            if cycles > _MOST_CYCLES or not begin.query():  # type: ignore[no-untyped-call]
                return lambda: float(begin.elapsed_time(end))
            self._cycles[call] = 2 * cycles

    def settle(self) -> None:
        """Wait for the device."""
        torch.cuda.synchronize()


class WallClock:
    """The host's clock, for a CPU, where a call has ended when it returns."""

    def time(self, call: Call) -> Elapsed:
        """Run the call."""
        begin = time.perf_counter()
        call()
        ms = (time.perf_counter() - begin) * 1e3
        return lambda: ms

    def settle(self) -> None:
        """Nothing is pending."""


def clock_for(device: torch.device) -> Clock:
    """The device's clock."""
    return DeviceClock() if device.type == "cuda" else WallClock()


def attempt(call: Call, device: torch.device) -> Failure | None:
    """Run `call` to its end; why it failed, or None. Raises ContextLost where nothing can be timed any more."""
    try:
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
    except Exception as error:  # noqa: BLE001 - foreign code: what it raises is what its record says
        return failure_of(error, device)
    return None


def failure_of(error: Exception, device: torch.device) -> Failure:
    """What `error` is to a record. Raises ContextLost if the device is gone with it."""
    said = [line for line in str(error).splitlines() if line.strip()] or [""]
    # A compiler's first line only announces what the second says.
    message = " ".join(said[:2]) if said[0].endswith(":") else said[0]
    if isinstance(error, torch.OutOfMemoryError):
        return Failure("out_of_memory", message)
    if device.type == "cuda":
        try:
            torch.cuda.synchronize()
        except RuntimeError:
            raise ContextLost(f"{type(error).__name__}: {message}") from error
    return Failure("failed", f"{type(error).__name__}: {message}")


def interleave(
    calls: Mapping[Key, Call],
    rounds: int,
    device: torch.device,
    deadline: float,
    clock: Clock | None = None,
    least: int = LEAST,
    most: int = 0,
) -> Laps[Key]:
    """Time every call once a round, for `rounds` rounds after `WARM_UP` that do not count.

    deadline  of time.monotonic(): no round begins after it, but `least` of those asked for are always run
    most      go on to as many rounds while some call's median is not `SURE`; some kernels' times vary by 10 %

    Calls keep their order, but for where a round begins. One that raises is taken out and becomes a failure. Raises
    ContextLost, and ValueError for too few rounds.
    """
    if rounds < LEAST:
        raise ValueError(f"{rounds} rounds are too few; a median with its spread takes at least {LEAST}")
    clock = clock or clock_for(device)
    failures: dict[Key, Failure] = {}
    times: dict[Key, list[float]] = {key: [] for key in calls}
    order = list(calls.items())
    for number in count():
        counted = number - WARM_UP
        if counted >= min(least, rounds) and time.monotonic() > deadline:
            break
        if counted >= rounds and (counted >= most or _sure(ms for key, ms in times.items() if key not in failures)):
            break
        marks: list[tuple[Key, Elapsed]] = []
        first = number % max(len(order), 1)
        for key, call in order[first:] + order[:first]:
            if key in failures:
                continue
            try:
                marks.append((key, clock.time(call)))
            except Exception as error:  # noqa: BLE001 - as in `attempt`
                failures[key] = failure_of(error, device)
        clock.settle()
        if counted >= 0:
            for key, elapsed in marks:
                times[key].append(elapsed())
    return Laps({key: tuple(ms) for key, ms in times.items() if key not in failures}, failures)


def _sure(times: Iterable[Sequence[float]]) -> bool:
    return all(uncertainty(ms) <= SURE for ms in times)
