"""A failure that one worker has shrunk is known to the others, for as long as the run lasts."""

from dataclasses import replace
from pathlib import Path

import pytest

from fa2verify.reports.record import Record
from fa2verify.verify.run.findings import Findings
from fa2verify.verify.run.quarantine import record_key

SHRUNK = Record(
    kernel="k",
    problem={"head_dim": 8},
    features=("float16", "dense", "forward"),
    verdict="failed",
    rule="R2 out",
    message="out[0] is 1, not 2",
    phase="shrunk",
    test="forward",
)


def test_the_same_failure_is_known_in_every_process(tmp_path: Path) -> None:
    Findings(tmp_path).add(SHRUNK)
    drawn = replace(SHRUNK, problem={"head_dim": 128, "seed": 4}, phase="drawn", message="out[7]", test="another part")
    assert Findings(tmp_path).of(drawn) == SHRUNK


@pytest.mark.parametrize(
    "different",
    [
        replace(SHRUNK, kernel="l"),
        replace(SHRUNK, verdict="crashed"),
        replace(SHRUNK, rule="R2 dq"),
        replace(SHRUNK, features=("float16", "varlen", "forward")),
        replace(SHRUNK, features=("float16", "dense", "backward")),
    ],
)
def test_a_different_failure_is_not(tmp_path: Path, different: Record) -> None:
    Findings(tmp_path).add(SHRUNK)
    assert Findings(tmp_path).of(different) is None


def test_the_last_one_stands_and_none_outlives_the_run(tmp_path: Path) -> None:
    findings = Findings(tmp_path)
    findings.add(SHRUNK)
    smaller = replace(SHRUNK, problem={})
    findings.add(smaller)
    assert findings.of(SHRUNK) == smaller
    assert len(list(tmp_path.iterdir())) == 1, "written in one step, and nothing beside it"
    findings.clear()
    assert findings.of(SHRUNK) is None
    assert list(tmp_path.iterdir()) == []


def test_records_are_the_same_by_test_and_problem() -> None:
    again = replace(SHRUNK, verdict="passed", rule=None, message="", seconds=3.0)
    assert record_key(again) == record_key(SHRUNK)
    assert record_key(replace(SHRUNK, test="backward")) != record_key(SHRUNK)
    assert record_key(replace(SHRUNK, problem={"head_dim": 16})) != record_key(SHRUNK)
