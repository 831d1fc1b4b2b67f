"""Benchmark records: JSON round trip, what a killed run leaves, and what is derived from them."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import trained
from pydantic import ValidationError

from fa2verify.reports.benchmark_record import (
    BenchmarkRun,
    BenchmarkWriter,
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
    to_json,
)

RUN = BenchmarkRun(id="x", started="2026-01-01T00:00:00+00:00", device="cpu", environment={"torch": "2"})
TIMING = Timing(
    grid="g", cell="c", kernel="k", direction="both", problem={}, outcome="measured", ms=(1.0, 3.0, 2.0), operations=4e9
)


PROBLEM = st.dictionaries(st.text(), st.none() | st.integers() | st.text() | st.lists(st.integers()))
LINES = st.one_of(
    *(st.builds(kind, problem=PROBLEM) for kind in (Timing, Memory)),
    *(st.builds(kind) for kind in (BenchmarkRun, Ceiling, HostCost, FirstCall, Training, LossAgreement)),
)


@given(LINES)
def test_what_is_written_is_read(line: Measurement) -> None:
    assert repr(from_json(to_json(line))) == repr(line)  # repr: NaN is not equal to itself


def test_figures_come_from_the_median() -> None:
    assert TIMING.median_ms == 2.0
    assert TIMING.tflops == 2.0
    assert Ceiling(cell="c", name="copy", ms=(2.0,), amount=8e9).rate == 4.0
    assert math.isnan(
        Timing(grid="g", cell="c", kernel="k", direction="both", problem={}, outcome="out_of_memory").tflops
    )


def test_tokens_per_second_count_the_last_steps_alone() -> None:
    training = trained(context=10, batch=4, step_ms=(1000.0, 20.0, 10.0), counted=2)
    assert training.tokens_per_second == pytest.approx(2 * 40 / 0.030)


def test_a_killed_run_keeps_what_it_had(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "benchmarks.jsonl"
    with BenchmarkWriter(path) as writer:
        writer.write(RUN, TIMING)
        assert read(path) == (RUN, TIMING)  # flushed before the file is closed
    with path.open("a") as file:
        file.write(to_json(TIMING)[:40])
    assert read(path) == (RUN, TIMING)


def test_a_line_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "benchmarks.jsonl"
    path.write_text('{"kind": "timing", "speed": 3}\n')
    with pytest.raises(ValidationError, match="speed"):
        read(path)


def test_a_line_separator_inside_a_text_ends_no_line(tmp_path: Path) -> None:
    failed = Timing(
        grid="g", cell="c", kernel="k", direction="both", problem={}, outcome="failed", message="one\u2028two\x85three"
    )
    path = tmp_path / "benchmarks.jsonl"
    with BenchmarkWriter(path) as writer:
        writer.write(RUN, failed)
    assert read(path) == (RUN, failed)
