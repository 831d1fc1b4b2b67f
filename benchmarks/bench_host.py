"""What calls cost the host, and what the first call of a kernel costs.

    tox run -e bench -- benchmarks/bench_host.py

Our CUDA kernel's forward may take 1.5 times the host time of torch's own FlashAttention-2, batches of both timed in
turn: beyond that an attention that is faster on the device is slower in a model of short sequences.
"""

from dataclasses import replace
from itertools import product
from typing import Any, get_args

import pytest

from fa2verify.benchmarks.first_call import first_calls
from fa2verify.benchmarks.host_cost import host_costs, too_much
from fa2verify.benchmarks.replay import CLOCK, benchmark_mark
from fa2verify.benchmarks.session import BenchmarkSession, Made, measured_or_skipped, session_of
from fa2verify.benchmarks.standard import NAME as STANDARD
from fa2verify.kernels.problem import Dense, Direction, Problem
from fa2verify.reports.benchmark_record import FirstCall, HostCost

_CALLS = {"cuda": 100, "cpu": 2}
_FIRST = Problem(
    dtype="bfloat16", lengths=Dense(batch=1, seqlen_q=128, seqlen_k=128), head_dim=64, causal="bottom_right"
)
_PROCESS_SECONDS = 20.0, 300.0


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests of first calls for each registered kernel."""
    if "kernel" in metafunc.fixturenames:
        names = [kernel.name for kernel in session_of(metafunc.config).kernels if kernel.name != STANDARD]
        metafunc.parametrize(
            ("kernel", "direction"),
            [
                pytest.param(
                    name, direction, id=f"{name}-{direction}", marks=pytest.mark.cell(("first", name, direction))
                )
                for name, direction in product(names, get_args(Direction))
            ],
        )


@benchmark_mark("host cost of a forward")
@pytest.mark.cell(("host",))
def test_host_cost(bench: BenchmarkSession, request: pytest.FixtureRequest) -> None:
    """Microseconds a call of every kernel, eager and compiled; pytest-benchmark keeps the first of ours."""
    made = measured_or_skipped(
        bench,
        ("host",),
        "host cost",
        lambda deadline: host_costs(bench.kernels, bench.device, bench.rounds, _CALLS[bench.device.type], deadline),
    )
    costs = [line for line in made if isinstance(line, HostCost) and line.outcome == "measured"]
    forwards = {line.subject: line for line in costs if (line.mode, line.direction) == ("eager", "forward")}
    shown = forwards[bench.kernels[0].name]
    benchmark: Any = request.getfixturevalue("benchmark")
    benchmark.extra_info.update({name: line.median_us for name, line in forwards.items()}, shown=shown.subject)
    CLOCK.play(benchmark, [us / 1e6 for us in shown.us])
    if exceeded := too_much(made):
        pytest.fail(exceeded)


def test_first_call(kernel: str, direction: Direction, bench: BenchmarkSession) -> None:
    """A fresh process with empty caches, then one with full ones."""
    problem = replace(_FIRST, direction=direction)

    def measure(deadline: float) -> Made:
        return first_calls(kernel, problem, bench.device.type, bench.seconds_each(deadline, 2, *_PROCESS_SECONDS))

    made = measured_or_skipped(bench, ("first", kernel, direction), f"first call of {kernel}, {direction}", measure)
    failed = [line for line in made if isinstance(line, FirstCall) and line.outcome == "failed"]
    if failed:
        pytest.fail(f"{kernel}: {failed[0].message}")
