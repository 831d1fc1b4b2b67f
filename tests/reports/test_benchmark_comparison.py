"""Two benchmark runs: what counts as worse, what cannot be compared, and which files are such runs."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_up import trained

from fa2verify.reports.benchmark_comparison import compare
from fa2verify.reports.benchmark_record import (
    BenchmarkRun,
    BenchmarkWriter,
    FirstCall,
    HostCost,
    Measurement,
    Memory,
    Timing,
    to_json,
)
from fa2verify.reports.benchmark_store import Benchmarks, BenchmarksError, begins_a_benchmark, load

RUN = BenchmarkRun(
    id="a", started="now", device="cuda", environment={"torch": "2.12", "gpu": "H200"}, options={"against": "base"}
)
TIMING = Timing(
    grid="flash", cell="d64", kernel="ours", direction="both", problem={}, outcome="measured", ms=(2.0, 2.1, 2.2) * 4
)
BASE = replace(TIMING, kernel="base", ms=(1.0,) * 12)
MEMORY = Memory(
    cell="s64", kernel="ours", direction="both", problem={}, seqlen=64, outcome="measured", bytes=100 * 2**20
)
HOST = HostCost(subject="ours", mode="eager", direction="forward", outcome="measured", us=(9.0,), calls=1)
FIRST = FirstCall(kernel="ours", cache="cold", direction="both", outcome="measured", first_ms=9.0, second_ms=1.0)
TRAINING = trained(step_ms=(90.0, 100.0, 100.0), counted=2)
ALL = (BASE, TIMING, MEMORY, HOST, FIRST, TRAINING)


def made(*lines: Measurement, **fields: Any) -> Benchmarks:
    return Benchmarks(replace(RUN, **fields), lines)


def test_a_run_and_itself_do_not_differ() -> None:
    found = compare(made(*ALL), made(*ALL))
    assert not found.worse
    assert found.common == len(ALL)
    assert (found.lapses, found.environment, found.against) == ((), {}, "base")
    assert [len(found.paces.over), len(found.memories), len(found.trainings)] == [1, 1, 1]


def test_a_kernel_that_is_a_fifth_slower_is_worse() -> None:
    slowed = replace(TIMING, ms=tuple(1.2 * ms for ms in TIMING.ms))
    found = compare(made(BASE, TIMING), made(BASE, slowed))
    assert found.worse
    assert [pace.name for pace in found.paces.over if pace.slower] == ["ours both, d64"]
    assert not compare(made(BASE, slowed), made(BASE, TIMING)).worse


def test_the_reference_can_be_another_than_the_runs_own() -> None:
    third = replace(BASE, kernel="third", ms=(4.0,) * 12)
    (pace, _) = compare(made(BASE, TIMING, third), made(BASE, TIMING, third), "third").paces.over
    assert (pace.name, pace.a) == ("base both, d64", 0.25)


@pytest.mark.parametrize("line", [TIMING, MEMORY, HOST, FIRST, TRAINING], ids=lambda line: line.kind)
@pytest.mark.parametrize(
    ("outcome", "worse"), [("failed", True), ("out_of_memory", True), ("unsupported", False), ("measured", False)]
)
def test_what_only_a_could_measure(line: Any, outcome: str, worse: bool) -> None:
    found = compare(made(BASE, line), made(BASE, replace(line, outcome=outcome, message="why")))
    assert found.worse == worse
    assert [(lapse.outcome, lapse.message) for lapse in found.lapses] == (
        [] if outcome == "measured" else [(outcome, "why")]
    )
    assert not compare(made(BASE, replace(line, outcome=outcome)), made(BASE, line)).worse


@pytest.mark.parametrize("line", [TIMING, MEMORY, HOST, FIRST, TRAINING], ids=lambda line: line.kind)
def test_what_neither_could_measure_is_not_compared(line: Any) -> None:
    run = made(BASE, replace(line, outcome="failed"))
    found = compare(run, run)
    assert (found.common, found.worse) == (2, False)
    assert (found.lapses, found.paces.over, found.memories, found.trainings) == ((), (), (), ())


@pytest.mark.parametrize(
    ("device", "growth", "worse"),
    [
        ("cpu", 0, False),
        ("cpu", 1, True),
        ("cuda", 8 * 2**20, False),
        ("cuda", 8 * 2**20 + 1, True),
        ("cuda", -9, False),
    ],
)
def test_memory_may_grow_by_rounding(device: str, growth: int, worse: bool) -> None:
    grown = replace(MEMORY, bytes=MEMORY.bytes + growth)
    found = compare(made(MEMORY, device=device), made(grown, device=device))
    assert found.worse == worse
    assert [(one.a, one.b) for one in found.memories] == [(MEMORY.bytes, grown.bytes)]


@pytest.mark.parametrize(("slowdown", "worse"), [(1.2, True), (1.09, False), (0.5, False)])
def test_a_training_must_be_slower_than_clocks_drift(slowdown: float, worse: bool) -> None:
    slowed = replace(TRAINING, step_ms=tuple(slowdown * ms for ms in TRAINING.step_ms))
    found = compare(made(TRAINING), made(slowed))
    assert found.worse == worse
    (shift,) = found.trainings
    assert (shift.a, shift.b) == pytest.approx((8 * 256 / 0.1, 8 * 256 / 0.1 / slowdown))


def test_trainings_with_another_optimizer_are_not_compared() -> None:
    with pytest.raises(
        BenchmarksError, match=r"A has training with ours, eager, float16, small.*; B has .*8-bit AdamW, "
    ):
        compare(made(TRAINING), made(replace(TRAINING, optimizer="8-bit AdamW")))


def test_environments_that_differ_are_said() -> None:
    other = made(MEMORY, environment={"torch": "2.13", "gpu": "H200", "triton": "3"})
    assert compare(made(MEMORY), other).environment == {"torch": ("2.12", "2.13"), "triton": ("", "3")}


def test_runs_that_cannot_be_compared() -> None:
    with pytest.raises(BenchmarksError, match="A was measured on cuda, B on cpu"):
        compare(made(MEMORY), made(MEMORY, device="cpu"))
    with pytest.raises(BenchmarksError, match="A has memory of ours both, s64; B has host cost of ours forward, eager"):
        compare(made(MEMORY), made(HOST))


def test_a_run_is_read(tmp_path: Path) -> None:
    path = tmp_path / "benchmarks.jsonl"
    with BenchmarkWriter(path) as writer:
        writer.write(RUN, *ALL)
    assert begins_a_benchmark(path)
    assert load(path) == made(*ALL)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("", "has 0 lines of a run"),
        (to_json(MEMORY) + "\n", "has 0 lines of a run"),
        (2 * (to_json(RUN) + "\n"), "has 2 lines of a run"),
        (to_json(MEMORY) + "\n" + to_json(RUN) + "\n", "it must have one, the first"),
        (to_json(RUN) + '\n{"kind": "timing"}\n', "timing.grid: Field required"),
        ("{\n", "Invalid JSON"),
        ("\udcff\n", "Invalid JSON"),
    ],
)
def test_a_file_of_another_kind(tmp_path: Path, content: str, fault: str) -> None:
    path = tmp_path / "benchmarks.jsonl"
    path.write_text(content, encoding="utf-8", errors="surrogateescape")
    assert begins_a_benchmark(path) == content.startswith(to_json(RUN))
    with pytest.raises(BenchmarksError, match=fault):
        load(path)
