"""What the benchmarks of one run share: time for each cell, and what becomes of a cell that fails half-way."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fa2verify.benchmarks.session import BenchmarkSession, TimeIsUp
from fa2verify.reports.benchmark_record import HostCost, Measurement, read

LINE = HostCost(subject="a", mode="eager", direction="forward", outcome="failed")


class Config:
    """As much of pytest's as a session asks for."""

    def __init__(self, directory: Path, **given: Any) -> None:
        defaults = {"rounds": 3, "grid": [], "against": "torch-flash", "dir": directory, "seconds": 100.0, "lanes": 1}
        self._options = {f"--bench-{name}": value for name, value in (defaults | given).items()}
        self._options |= {"--device": "cpu", "--kernel": ["torch-math"]}

    def getoption(self, name: str) -> Any:
        return self._options[name]


@pytest.fixture
def session(tmp_path: Path) -> Iterator[BenchmarkSession]:
    made = BenchmarkSession(Config(tmp_path))  # type: ignore[arg-type]
    yield made
    made.close()


def test_a_cell_is_measured_once_and_written(session: BenchmarkSession, tmp_path: Path) -> None:
    calls = []

    def measure(deadline: float) -> tuple[Measurement, ...]:
        calls.append(deadline)
        return (LINE, LINE)

    assert session.once("cell", "a cell", measure) == session.once("cell", "a cell", measure) == (LINE, LINE)
    assert len(calls) == 1
    assert read(tmp_path / "benchmarks.jsonl") == (session.run, LINE, LINE)


def test_cells_get_equal_parts_of_what_is_left(session: BenchmarkSession) -> None:
    session.left = {"a", "b", "c", "d"}
    parts = []
    for key in ("a", "b"):
        session.once(key, key, lambda deadline: parts.append(deadline - time.monotonic()) or ())
    begun = 100.0  # seconds, of which making the session and both cells takes little
    assert begun / 4 - 5 < parts[0] <= begun / 4
    assert begun / 3 - 5 < parts[1] <= begun / 3


def test_a_part_that_has_no_time_to_start_is_none(session: BenchmarkSession) -> None:
    session.left = {"a", "b", "c"}
    with pytest.raises(TimeIsUp, match=r"leaves \d+ s for what may take 51"):
        session.once("a", "a", lambda deadline: session.seconds_each(deadline, 2, 51.0, 300.0) and ())
    parts: list[float] = []
    # Of 100 s the first has 50, too few for two parts of 30; the second has what is left, and that is its own.
    session.once("b", "b", lambda deadline: parts.append(session.seconds_each(deadline, 2, 30.0, 300.0)) or ())
    session.once("c", "c", lambda deadline: parts.append(session.seconds_each(deadline, 2, 30.0, 300.0)) or ())
    assert parts[0] == 30
    assert 45 < parts[1] <= 50
    assert session.seconds_each(time.monotonic() + 1e6, 2, 20.0, 300.0) == 300.0


def test_what_was_measured_before_a_failure_counts(session: BenchmarkSession, tmp_path: Path) -> None:
    def dies(deadline: float) -> Iterator[Measurement]:
        yield LINE
        raise RuntimeError("the process died")

    assert session.once("cell", "a cell", dies) == (LINE,)
    assert session.once("cell", "a cell", dies) == (LINE,)
    assert str(session.errors["cell"]) == "the process died"
    assert read(tmp_path / "benchmarks.jsonl") == (session.run, LINE)


def test_a_cell_without_any_measurement_raises_every_time(session: BenchmarkSession) -> None:
    calls = []

    def dies(deadline: float) -> tuple[Measurement, ...]:
        calls.append(deadline)
        raise RuntimeError("nothing at all")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="nothing at all"):
            session.once("cell", "a cell", dies)
    assert len(calls) == 1


def test_ratios_are_to_the_first_kernel_where_the_asked_one_is_missing(session: BenchmarkSession) -> None:
    assert session.against == "torch-math"
    assert [kernel.name for kernel in session.kernels] == ["torch-math", "standard"]
