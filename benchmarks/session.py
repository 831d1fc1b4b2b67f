"""What the benchmarks of one pytest run share: device, kernels, time that is left, and the file of records."""

import datetime
import math
import secrets
import time
import warnings
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path

import pytest
import torch
import torch._functorch.config

from fa2verify.benchmarks.grid import GRIDS, Cell
from fa2verify.benchmarks.standard import StandardAttention
from fa2verify.kernels.kernel import Kernel
from fa2verify.kernels.registry import KernelSpecError, select
from fa2verify.reports.benchmark_record import FILE, BenchmarkRun, BenchmarkWriter, Measurement, to_json
from fa2verify.verify.run.environment import describe
from fa2verify.verify.suite import options

Made = tuple[Measurement, ...]
Measure = Callable[[float], Iterable[Measurement]]


class TimeIsUp(Exception):
    """The run's time is over; what has not been measured stays so."""


class BenchmarkSession:
    """One run. Raises pytest.UsageError for options that contradict each other or the machine."""

    def __init__(self, config: pytest.Config) -> None:
        chosen = options.chosen_device(config)
        self.device = torch.device(chosen)
        self.rounds: int = config.getoption("--bench-rounds")
        self.cells = _cells(config.getoption("--bench-grid"), chosen)
        self.kernels = _kernels(config.getoption("--kernel"), self.device)
        self.against = _against(config.getoption("--bench-against"), self.kernels)
        self.directory: Path = config.getoption("--bench-dir").absolute()
        self.left: set[Hashable] = set()
        self._end = time.monotonic() + config.getoption("--bench-seconds")
        self.errors: dict[Hashable, Exception] = {}
        self._made: dict[Hashable, Made] = {}
        self._writer: BenchmarkWriter | None = None
        self._say: Callable[[str], None] = lambda _: None
        self.run = BenchmarkRun(
            id=secrets.token_hex(6),
            started=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            device=chosen,
            environment=describe(chosen),
            options={
                "grids": " ".join(dict.fromkeys(cell.grid for cell in self.cells)),
                "kernels": " ".join(kernel.name for kernel in self.kernels),
                "against": self.against,
                "rounds": str(self.rounds),
                "seconds": str(config.getoption("--bench-seconds")),
                "lanes": str(config.getoption("--bench-lanes")),
            },
        )
        # A backward runs again and again on one graph; compiled kernels would give its buffers away the first time.
        torch._functorch.config.donated_buffer = False

    def kernel(self, name: str) -> Kernel:
        """The kernel of that name."""
        return next(kernel for kernel in self.kernels if kernel.name == name)

    @property
    def is_limited(self) -> bool:
        """Whether the run has a time, `--bench-seconds`, and what it has no time for is skipped."""
        return math.isfinite(self._end)

    def report_to(self, say: Callable[[str], None]) -> None:
        """Have progress told to `say`, a line at a time."""
        self._say = say

    def tell(self, line: str) -> None:
        """Tell progress."""
        self._say(line)

    def once(self, key: Hashable, name: str, measure: Measure) -> Made:
        """The measurements of one cell: made by `measure(deadline)` when first asked for, each written as it is made.

        deadline  of time.monotonic(): an equal part of what is left for every cell that is still to come

        What `measure` raises ends the cell: it is raised here, now and later, if nothing had been measured, and lies in
        `errors` otherwise. Raises TimeIsUp.
        """
        if key not in self._made:
            self._measure(key, name, measure)
        if key in self.errors and not self._made[key]:
            raise self.errors[key]
        return self._made[key]

    def _measure(self, key: Hashable, name: str, measure: Measure) -> None:
        now = time.monotonic()
        if now >= self._end:
            raise TimeIsUp(f"the time of --bench-seconds was over before {name}")
        made: list[Measurement] = []
        deadline = now + (self._end - now) / max(1, len(self.left))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a kernel's warning, or its compiler's, is no outcome
                for line in measure(deadline):
                    self.write(line)
                    made.append(line)
        except Exception as error:  # noqa: BLE001 - kept for every test of the cell
            self.errors[key] = error
        self.left.discard(key)
        self._made[key] = tuple(made)
        self._say(f"{name}: {len(made)} records in {time.monotonic() - now:.1f} s, {len(self.left)} cells left")
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def seconds_each(self, deadline: float, parts: int, least: float, most: float) -> float:
        """Seconds that each of as many parts of a cell may take: up to the cell's deadline, but `least` to `most`.

        They are a limit, which most parts stay far below: a cell's time that is too short for its parts is filled up
        from what the cells to come have. Raises TimeIsUp if the whole run has not `least` left for each.
        """
        now = time.monotonic()
        left = (self._end - now) / parts
        if left < least:
            raise TimeIsUp(f"--bench-seconds leaves {max(0.0, left):.0f} s for what may take {least:.0f}")
        return min(most, max(least, (deadline - now) / parts))

    def write(self, *lines: Measurement) -> None:
        """Append records to the run's file, which begins with the run itself."""
        if self._writer is None:
            self.directory.mkdir(parents=True, exist_ok=True)
            (self.directory / FILE).write_text(to_json(self.run) + "\n", encoding="utf-8")
            self._writer = BenchmarkWriter(self.directory / FILE)
        self._writer.write(*lines)

    @property
    def wrote(self) -> bool:
        """Whether anything was measured."""
        return self._writer is not None

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.__exit__(None, None, None)


def _cells(names: list[str], device: str) -> tuple[Cell, ...]:
    names = names or (["smoke"] if device == "cpu" else [name for name in GRIDS if name != "smoke"])
    if unknown := [name for name in names if name not in GRIDS]:
        raise pytest.UsageError(f"--bench-grid={unknown[0]}: there is no such grid; known are {', '.join(GRIDS)}")
    if device == "cpu" and (large := [name for name in names if name != "smoke"]):
        raise pytest.UsageError(f"--bench-grid={large[0]}: it needs a GPU, and torch sees none; smoke runs anywhere")
    return tuple(cell for name in names for cell in GRIDS[name]())


def _kernels(specs: list[str], device: torch.device) -> tuple[Kernel, ...]:
    try:
        selected = [registered.kernel for registered in select(specs)]
    except KernelSpecError as error:
        raise pytest.UsageError(f"--kernel: {error}") from error
    runnable = []
    for kernel in selected:
        reasons = kernel.unavailable(device)
        if reasons and specs:
            raise pytest.UsageError(f"--kernel={kernel.name}: it cannot run here: {' '.join(reasons)}")
        if not reasons and (specs or not kernel.only_when_named):
            runnable.append(kernel)
    # Last, as it takes the most memory: what the others need is taken by then.
    return (*runnable, StandardAttention())


def _against(asked: str, kernels: tuple[Kernel, ...]) -> str:
    names = [kernel.name for kernel in kernels]
    return asked if asked in names else names[0]


SESSION: pytest.StashKey[BenchmarkSession] = pytest.StashKey()


def session_of(config: pytest.Config) -> BenchmarkSession:
    """The run's session."""
    return config.stash[SESSION]


def measured_or_skipped(session: BenchmarkSession, key: Hashable, name: str, measure: Measure) -> Made:
    """`session.once`, the test being skipped with its reason when time is up."""
    try:
        return session.once(key, name, measure)
    except TimeIsUp as error:
        pytest.skip(str(error))
