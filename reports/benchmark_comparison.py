"""What moved between two benchmark runs, A and B: outcomes, times, peak memory and training speed.

Times are compared over a reference kernel's, as `timings` says. Memory does not drift and is compared as it is.
Trainings run one after the other, so that their speeds are no surer than the clock. What calls cost the host is left
out, but for failing: by how much that moves between runs of the same code has not been measured.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from fa2verify.reports.benchmark_record import (
    BenchmarkRun,
    FirstCall,
    HostCost,
    Measurement,
    Memory,
    Outcome,
    Timing,
    Training,
)
from fa2verify.reports.benchmark_store import Benchmarks, BenchmarksError
from fa2verify.reports.failures import compact
from fa2verify.reports.timings import Paces, paces

# By how much an unchanged call's peak may move, in bytes. torch's CUDA allocator counts whole blocks, and leaves up to
# 1 MiB of one undivided, depending on what it had cached before (DeviceCachingAllocator::should_split). Out, lse, dq,
# dk, dv and three of workspace are eight. On a CPU the bytes of storages are counted, which nothing rounds.
ROUNDING = {"cpu": 0, "cuda": 8 * 2**20}
DRIFT = 1.1  # clocks drift by 5 to 10 % between runs; a training must move by more than this

Attempt = Timing | Memory | HostCost | FirstCall | Training
Found = TypeVar("Found", bound=Attempt)
Key = tuple[str, str]  # name, problem as text


@dataclass(frozen=True, slots=True)
class Lapse:
    """What A measured and B could not; `message` is B's."""

    name: str
    outcome: Outcome
    message: str

    @property
    def worse(self) -> bool:
        """Whether it was tried and failed, memory that ran out included."""
        return self.outcome != "unsupported"


@dataclass(frozen=True, slots=True)
class MemoryShift:
    """Peak memory of one call in both runs, in bytes; `rounding` is what it may move by unchanged."""

    name: str
    a: int
    b: int
    rounding: int

    @property
    def worse(self) -> bool:
        """Whether it grew by more than rounding."""
        return self.b > self.a + self.rounding


@dataclass(frozen=True, slots=True)
class TrainingShift:
    """Tokens a second of one training in both runs."""

    name: str
    a: float
    b: float

    @property
    def worse(self) -> bool:
        """Whether B is slower by more than clocks drift."""
        return self.b * DRIFT < self.a


@dataclass(frozen=True, slots=True)
class BenchmarkComparison:
    """Everything that two benchmark runs differ in.

    device       "cpu" or "cuda", of both
    against      the kernel that times are over
    common       measurements that both tried
    environment  property to what A and B say, where they differ
    """

    device: str
    against: str
    common: int
    lapses: tuple[Lapse, ...]
    paces: Paces
    memories: tuple[MemoryShift, ...]
    trainings: tuple[TrainingShift, ...]
    environment: dict[str, tuple[str, str]]

    @property
    def worse(self) -> bool:
        """Whether anything in B is worse."""
        slower = any(pace.slower for pace in self.paces.over) or any(one.worse for one in self.trainings)
        return slower or any(lapse.worse for lapse in self.lapses) or any(memory.worse for memory in self.memories)


def compare(a: Benchmarks, b: Benchmarks, against: str | None = None) -> BenchmarkComparison:
    """Compare run B with run A.

    against  the kernel that times are over; that of A's own options if None

    Raises BenchmarksError if nothing is in common, and TimingsError.
    """
    if a.run.device != b.run.device:
        raise BenchmarksError(
            f"A was measured on {a.run.device}, B on {b.run.device}; both must be of one kind of device"
        )
    against = against or a.run.options.get("against", "torch-flash")
    all_a, all_b = _attempts(a.lines), _attempts(b.lines)
    common = [(all_a[key], all_b[key]) for key in all_a if key in all_b]
    if not common:
        raise BenchmarksError(
            f"nothing was measured in both benchmark runs: A has {_some(all_a)}; B has {_some(all_b)}"
        )
    timed_a, timed_b = ([line for line in run.lines if isinstance(line, Timing)] for run in (a, b))
    return BenchmarkComparison(
        device=a.run.device,
        against=against,
        common=len(common),
        lapses=tuple(
            Lapse(_name(two), two.outcome, two.message)
            for one, two in common
            if one.outcome == "measured" and two.outcome != "measured"
        ),
        paces=paces(timed_a, timed_b, against),
        memories=_shifts(
            common, Memory, lambda one, two: MemoryShift(_name(two), one.bytes, two.bytes, ROUNDING[a.run.device])
        ),
        trainings=_shifts(
            common,
            Training,
            lambda one, two: TrainingShift(_name(two), one.tokens_per_second, two.tokens_per_second),
        ),
        environment=_environment(a.run, b.run),
    )


Shift = TypeVar("Shift")


def _shifts(
    common: Sequence[tuple[Attempt, Attempt]], kind: type[Found], shift: Callable[[Found, Found], Shift]
) -> tuple[Shift, ...]:
    return tuple(
        shift(one, two)
        for one, two in common
        if isinstance(one, kind) and isinstance(two, kind) and one.outcome == two.outcome == "measured"
    )


def _attempts(lines: Sequence[Measurement]) -> dict[Key, Attempt]:
    return {
        (_name(line), compact(dict(sorted(getattr(line, "problem", {}).items())))): line
        for line in lines
        if isinstance(line, Attempt)
    }


def _name(line: Attempt) -> str:
    match line:
        case Timing():
            return f"{line.kernel} {line.direction}, {line.cell}"
        case Memory():
            return f"memory of {line.kernel} {line.direction}, {line.cell}"
        case HostCost():
            return f"host cost of {line.subject} {line.direction}, {line.mode}"
        case FirstCall():
            return f"first call of {line.kernel} {line.direction}, {line.cache}"
        case Training():
            optimizer = "" if line.optimizer == "AdamW" else f", {line.optimizer}"
            return f"training with {line.attention}, {line.mode}, {line.dtype}{optimizer}, {line.cell}"


def _some(attempts: dict[Key, Attempt]) -> str:
    names = list(dict.fromkeys(name for name, _ in attempts))
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") or "none"


def _environment(a: BenchmarkRun, b: BenchmarkRun) -> dict[str, tuple[str, str]]:
    names = dict.fromkeys((*a.environment, *b.environment))
    said = {name: (a.environment.get(name, ""), b.environment.get(name, "")) for name in names}
    return {name: pair for name, pair in said.items() if pair[0] != pair[1]}
