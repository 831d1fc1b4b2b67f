"""Benchmark runs to be shown: which belong together, which line counts where two measured the same, what is lost."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from made_up import trained

from fa2verify.reports.benchmark_record import (
    BenchmarkRun,
    Ceiling,
    FirstCall,
    HostCost,
    LossAgreement,
    Measurement,
    Memory,
    Timing,
    to_json,
)
from fa2verify.reports.benchmark_store import file_in, machines

RUN = BenchmarkRun(
    id="a", started="2026-01-01", device="cuda", environment={"gpu": "H200"}, options={"against": "torch-math"}
)
TIMING = Timing(
    grid="flash", cell="flash-a", kernel="mine", direction="forward", problem={}, outcome="measured", ms=(1.0,)
)
HOST = HostCost(subject="mine", mode="eager", direction="forward", outcome="measured", us=(9.0,))


def written(path: Path, *lines: BenchmarkRun | Measurement, end: str = "") -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(to_json(line) + "\n" for line in lines) + end)
    return path


def test_runs_in_one_environment_are_one_machine(tmp_path: Path) -> None:
    late = replace(RUN, id="b", started="2026-01-02", options={"against": "mine"})
    other = replace(RUN, id="c", environment={"gpu": "A100"})
    paths = [
        written(tmp_path / "b", late, HOST),
        written(tmp_path / "a", RUN, TIMING),
        written(tmp_path / "c", other, TIMING),
    ]
    (first, second), losses = machines(paths)
    assert (first.runs, first.lines, first.name, first.against) == ((RUN, late), (TIMING, HOST), "H200", "mine")
    assert (second.runs, second.lines, second.name, second.against) == ((other,), (TIMING,), "A100", "torch-math")
    assert losses == ()


def test_of_what_two_runs_measured_the_later_is_shown_and_never_some_of_each(tmp_path: Path) -> None:
    late = replace(RUN, id="b", started="2026-01-02")
    gone = replace(TIMING, kernel="gone")
    again = replace(TIMING, ms=(2.0,))
    elsewhere = replace(TIMING, cell="flash-b")
    (machine,), _ = machines(
        [written(tmp_path / "b", late, again), written(tmp_path / "a", RUN, TIMING, gone, elsewhere)]
    )
    assert machine.lines == (again, elsewhere)


def test_memory_of_another_kernel_stays(tmp_path: Path) -> None:
    mine = Memory(cell="m", kernel="mine", direction="both", problem={}, seqlen=64, outcome="measured", bytes=1)
    other = replace(mine, kernel="other")
    late = replace(RUN, id="b", started="2026-01-02")
    (machine,), _ = machines([written(tmp_path / "a", RUN, mine, other), written(tmp_path / "b", late, other)])
    assert machine.lines == (mine, other)


def test_a_run_in_two_files_is_read_once(tmp_path: Path) -> None:
    paths = [written(tmp_path / name, RUN, TIMING) for name in ("a", "b")]
    (machine,), losses = machines([*paths, paths[0]])
    assert (machine.runs, machine.lines, losses) == ((RUN,), (TIMING,), ())


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", RUN, TIMING, end='{"kind":"timing"}\n{"kind":')
    orphans = written(tmp_path / "b.jsonl", TIMING)
    (machine,), losses = machines([path, orphans])
    assert machine.lines == (TIMING,)
    assert [loss.partition(" (in ")[0] for loss in losses] == [
        "a.jsonl, line 3: no measurement: timing.grid: Field required",
        "a.jsonl, line 4: cut off, its process ended while writing it",
        "b.jsonl: does not begin with a run, so its lines belong to none",
    ]


def test_a_file_that_describes_no_run_is_one_loss(tmp_path: Path) -> None:
    (), losses = machines([written(tmp_path / "a", TIMING, TIMING, HOST)])
    assert len(losses) == 1


@pytest.mark.parametrize(
    ("line", "flaw"),
    [
        (replace(TIMING, ms=()), "measured in 0 rounds"),
        (replace(TIMING, ms=(1.0, 0.0)), "a time of 0.0 ms"),
        (replace(TIMING, ms=(1.0, math.nan)), "a time of nan ms"),
        (replace(TIMING, ms=(5e-324,), operations=1e308), "inf TFLOP/s"),
        (replace(TIMING, operations=-1.0), "-1e-09 TFLOP/s"),
        (Ceiling(cell="c", name="copy", ms=(), amount=1.0), "measured in 0 rounds"),
        (replace(HOST, us=()), "measured in 0 rounds"),
        (
            Memory(cell="m", kernel="k", direction="both", problem={}, seqlen=1, outcome="measured", bytes=-1),
            "a peak of -1 bytes",
        ),
        (
            Memory(cell="m", kernel="k", direction="both", problem={}, seqlen=1, outcome="measured", bytes=10**400),
            "bytes",
        ),
        (FirstCall(kernel="k", cache="cold", direction="both", outcome="measured", first_ms=-2.0), "a time of -2.0 ms"),
        (trained(step_ms=()), "measured in 0 rounds"),
        (trained(step_ms=(1.0, 1.0), counted=0), "nan tokens/s"),
        (trained(step_ms=(1.0, 0.0)), "a time of 0.0 ms"),
        (trained(memory=10**400), "a memory of 1000"),
        (trained(context=10**400, batch=1), "steps of 1000"),
        (LossAgreement(cell="c", attention="a", mode="eager", steps=1, distance=1.0, noise=()), "no twin"),
    ],
)
def test_a_measurement_that_can_be_none_is_lost_and_never_shown(tmp_path: Path, line: Measurement, flaw: str) -> None:
    (machine,), (loss,) = machines([written(tmp_path / "a", RUN, line)])
    assert machine.lines == ()
    assert loss.startswith("a, line 2: no measurement: ")
    assert flaw in loss


def test_what_was_not_measured_needs_no_times(tmp_path: Path) -> None:
    line = replace(TIMING, outcome="failed", ms=())
    (machine,), losses = machines([written(tmp_path / "a", RUN, line)])
    assert (machine.lines, losses) == ((line,), ())


def test_a_machine_without_a_gpu_is_called_by_its_processor(tmp_path: Path) -> None:
    run = replace(RUN, device="cpu", environment={"processor": "Some CPU", "gpu": "unused"})
    (machine,), _ = machines([written(tmp_path / "a", run, HOST)])
    assert machine.name == "Some CPU"


def test_a_folder_holds_benchmarks_by_their_name_and_a_file_by_its_first_line(tmp_path: Path) -> None:
    assert file_in(tmp_path) is None
    named = written(tmp_path / "benchmarks.jsonl", RUN)
    assert file_in(tmp_path) == file_in(named) == named
    assert file_in(written(tmp_path / "records.jsonl", TIMING)) is None
    assert file_in(tmp_path / "nowhere") is None
