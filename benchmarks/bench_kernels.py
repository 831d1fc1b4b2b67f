"""Every kernel's speed on published grids: forward, backward and both, kernels interleaved round by round.

    tox run -e bench -- benchmarks/bench_kernels.py --bench-grid=flash --bench-seconds=600

A cell's kernels are timed together when the first of its tests runs; each test then hands one line's times to
pytest-benchmark. Running out of memory is a result; any other failure fails the test. `-k d128-causal` and the like
select cells.
"""

from typing import Any

import pytest

from fa2verify.benchmarks.grid import Cell
from fa2verify.benchmarks.race import DIRECTIONS, race
from fa2verify.benchmarks.replay import CLOCK, benchmark_mark
from fa2verify.benchmarks.session import BenchmarkSession, Made, measured_or_skipped, session_of
from fa2verify.reports.benchmark_record import Ceiling, Direction, Timing


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test for each cell, direction and kernel that takes the problem."""
    session = session_of(metafunc.config)
    metafunc.parametrize(
        ("cell", "direction", "kernel"),
        [
            pytest.param(
                cell,
                direction,
                kernel.name,
                id=f"{cell.name}-{direction}-{kernel.name}",
                marks=(benchmark_mark(f"{cell.name} {direction}"), pytest.mark.cell(("kernels", cell.name))),
            )
            for cell in session.cells
            for direction in DIRECTIONS
            for kernel in session.kernels
            if not kernel.unsupported(cell.problem)
        ],
    )


def test_kernel(
    cell: Cell, direction: Direction, kernel: str, bench: BenchmarkSession, request: pytest.FixtureRequest
) -> None:
    """Device time of one kernel in one direction."""
    made = measured_or_skipped(
        bench,
        ("kernels", cell.name),
        cell.name,
        lambda deadline: race(cell, bench.kernels, bench.rounds, bench.device, deadline),
    )
    timing = find(made, kernel, direction)
    if timing.outcome == "failed":
        pytest.fail(f"{kernel} on {cell.problem.to_json()}: {timing.message}")
    if timing.outcome == "measured":
        benchmark: Any = request.getfixturevalue("benchmark")
        benchmark.extra_info.update(figures(made, timing, bench.against))
        CLOCK.play(benchmark, [ms / 1e3 for ms in timing.ms])


def find(made: Made, kernel: str, direction: Direction) -> Timing:
    """A kernel's line of a cell."""
    lines = (line for line in made if isinstance(line, Timing))
    return next(line for line in lines if (line.kernel, line.direction) == (kernel, direction))


def figures(made: Made, timing: Timing, against: str) -> dict[str, Any]:
    """What a reader wants beside the times.

    tflops          operations over the median, TFLOP/s
    share_of_matmul of the rate of the cell's own matrix product
    ratio           speed in units of `against`, above 1 if faster; missing where that was not measured
    """
    shown: dict[str, Any] = {"kernel": timing.kernel, "direction": timing.direction, "problem": timing.problem}
    shown["tflops"] = timing.tflops
    ceilings = {line.name: line.rate for line in made if isinstance(line, Ceiling)}
    if "matmul" in ceilings:
        shown["matmul_tflops"] = ceilings["matmul"]
        shown["share_of_matmul"] = timing.tflops / ceilings["matmul"]
    if "copy" in ceilings:
        shown["copy_tbps"] = ceilings["copy"]
    other = find(made, against, timing.direction)
    if other.outcome == "measured":
        shown["against"], shown["ratio"] = against, other.median_ms / timing.median_ms
    return shown
