"""Benchmark runs on disk: read strictly, one run a file, to be compared; or leniently, any number of them, to be shown.

What is measured together is compared together: the lines of one cell come from the same rounds. So where two runs
measured the same, the later one's lines of it are shown and the earlier one's are not; never some of each.
"""

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from fa2verify.reports.benchmark_record import (
    FILE,
    BenchmarkRun,
    Ceiling,
    FirstCall,
    HostCost,
    LossAgreement,
    Measurement,
    Memory,
    Timing,
    Training,
    from_json,
    read,
)
from fa2verify.reports.lines import fault_of, loss, parsed

_MOST = 2**63  # of bytes or tokens: what no machine has


class BenchmarksError(ValueError):
    """Files that are no benchmark runs, or runs that nothing can be compared of; the message says why."""


@dataclass(frozen=True, slots=True)
class Benchmarks:
    """One benchmark run, and what it measured."""

    run: BenchmarkRun
    lines: tuple[Measurement, ...]


@dataclass(frozen=True, slots=True)
class Machine:
    """Every run in one environment, and what they measured; nothing twice.

    runs  in the order in which they started, at least one
    """

    runs: tuple[BenchmarkRun, ...]
    lines: tuple[Measurement, ...]

    @property
    def name(self) -> str:
        """What the machine is called: its GPU, or the processor that stood in for one."""
        run = self.runs[-1]
        return run.environment.get("gpu" if run.device == "cuda" else "processor", run.device)

    @property
    def against(self) -> str:
        """The kernel that the latest run's ratios are to."""
        return self.runs[-1].options.get("against", "torch-flash")


def file_in(path: Path) -> Path | None:
    """The file of benchmarks that `path` is, or that lies in it; None without one. Raises OSError."""
    if path.is_dir():
        return path / FILE if (path / FILE).exists() else None
    return path if path.exists() and begins_a_benchmark(path) else None


def begins_a_benchmark(path: Path) -> bool:
    """Whether the file's first line is that of a benchmark run. Raises OSError."""
    with path.open("rb") as file:
        first = file.readline()
    try:
        return isinstance(from_json(first), BenchmarkRun)
    except ValidationError:
        return False


def load(path: Path) -> Benchmarks:
    """Read one run. Raises OSError, and BenchmarksError for a file of another kind or of several runs."""
    try:
        lines = read(path)
    except ValidationError as error:
        raise BenchmarksError(f"{path}: a line is not what benchmarks write: {fault_of(error)}") from None
    runs = [line for line in lines if isinstance(line, BenchmarkRun)]
    if len(runs) != 1 or lines[0] is not runs[0]:
        raise BenchmarksError(f"{path}: has {len(runs)} lines of a run; it must have one, the first, as runs write it")
    return Benchmarks(runs[0], tuple(line for line in lines if not isinstance(line, BenchmarkRun)))


def machines(paths: Iterable[Path]) -> tuple[tuple[Machine, ...], tuple[str, ...]]:
    """Read files of benchmarks, a file named twice once: machines in order of appearance, and what could not be read.

    Raises OSError.
    """
    found: dict[str, tuple[BenchmarkRun, list[Measurement]]] = {}
    losses: list[str] = []
    for path in dict.fromkeys(path.resolve() for path in paths):
        losses += _read(path, found)
    together: dict[Hashable, list[Benchmarks]] = {}
    for run, lines in found.values():
        here = run.device, tuple(sorted(run.environment.items()))
        together.setdefault(here, []).append(Benchmarks(run, tuple(lines)))
    return tuple(_machine(of_one) for of_one in together.values()), tuple(losses)


def _read(path: Path, found: dict[str, tuple[BenchmarkRun, list[Measurement]]]) -> list[str]:
    losses: list[str] = []
    current: list[Measurement] | None = None
    orphans = False
    for number, line in parsed(path, from_json, "no measurement: ", losses):
        if isinstance(line, BenchmarkRun):
            # The same run in two files is the same run: a copy adds nothing.
            current = []
            found.setdefault(line.id, (line, current))
        elif current is None:
            orphans = True
        elif flaw := _flaw(line):
            losses.append(loss(path, f"no measurement: {flaw}", number))
        else:
            current.append(line)
    if orphans:
        losses.append(loss(path, "does not begin with a run, so its lines belong to none"))
    return losses


def _flaw(line: Measurement) -> str:
    """What cannot have been measured, in a few words; empty if nothing. Other programs may write such lines."""
    match line:
        case LossAgreement():
            return "" if line.noise else "its losses are compared with no twin"
        case Ceiling():
            return _times(line.ms, "ms") or _rate(line.rate, "a second, in units of 10^12")
        case Training() if flaw := _count(line.memory, "a memory of", "bytes"):
            return flaw
        case _ if line.outcome != "measured":
            return ""
        case Timing():
            return _times(line.ms, "ms") or _rate(line.tflops, "TFLOP/s")
        case HostCost():
            return _times(line.us, "us")
        case FirstCall():
            return _times((line.first_ms, *line.others_ms), "ms")
        case Training():
            return (
                _count(line.batch * line.context, "steps of", "tokens")
                or _times(line.step_ms, "ms")
                or _rate(line.tokens_per_second, "tokens/s")
            )
        case Memory():
            return _count(line.bytes, "a peak of", "bytes")


def _count(count: int, what: str, unit: str) -> str:
    return "" if 0 <= count < _MOST else f"{what} {count} {unit}"


def _times(times: Sequence[float], unit: str) -> str:
    if not times:
        return "measured in 0 rounds"
    bad = next((time for time in times if not 0 < time < math.inf), None)
    return "" if bad is None else f"a time of {bad} {unit}"


def _rate(rate: float, unit: str) -> str:
    return "" if 0 <= rate < math.inf else f"{rate:.3g} {unit}"


def _machine(runs: Sequence[Benchmarks]) -> Machine:
    runs = sorted(runs, key=lambda one: one.run.started)
    shown: dict[Hashable, list[Measurement]] = {}
    for one in runs:
        own: dict[Hashable, list[Measurement]] = {}
        for line in one.lines:
            own.setdefault(_together(line), []).append(line)
        shown |= own
    lines = tuple(line for together in shown.values() for line in together)
    return Machine(tuple(one.run for one in runs), lines)


def _together(line: Measurement) -> Hashable:
    """What a line was measured in one go with."""
    match line:
        case Timing() | Ceiling():
            return "cell", line.cell
        case Memory():
            return "memory", line.kernel, line.direction
        case HostCost():
            return "host"
        case FirstCall():
            return "first call", line.kernel, line.direction
        case Training():
            return "training", line.cell, line.attention, line.mode, line.dtype, line.optimizer
        case LossAgreement():
            return "losses", line.cell
