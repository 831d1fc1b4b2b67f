"""Kernels that take their process down, or never return, cost nobody else a verdict."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from fa2verify.kernels.problem import Problem
from fa2verify.reports.store import PARTS


def test_deaths_and_hangs_beside_a_kernel_that_passes(suite: Any) -> None:
    done = suite.run("-n", "2", "--problem-timeout=3", kernels=["segfaults", "right", "hangs"])
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert "3 kernels, " in done.stdout
    assert "in 2 kernels (foreign:segfaults, foreign:hangs)" in done.stdout

    loaded = suite.loaded()
    assert loaded.losses == ()
    of = {
        name: [record for record in loaded.records if record.kernel == f"foreign:{name}"]
        for name in ("right", "segfaults", "hangs")
    }
    assert [record.verdict for record in of["right"]] == ["passed"] * 51

    # Two workers may find it at the same time; each shrinks it among the problems of its own test.
    died = [record for record in of["segfaults"] if record.phase == "shrunk"]
    assert 1 <= len(died) <= 2
    for record in died:
        assert (record.verdict, record.rule) == ("crashed", "process died")
        assert record.message == "the process died of signal 11 (SIGSEGV) during the call"
        smallest = Problem.from_dict(record.problem)
        assert (max(smallest.seqlens_k), smallest.head_dim, smallest.scores) == (17, 8, 17)
    assert {record.verdict for record in of["segfaults"]} == {"passed", "crashed"}

    (shrunk,) = [record for record in of["hangs"] if record.phase == "shrunk"]
    assert (shrunk.verdict, shrunk.rule) == ("timed_out", "timeout")
    assert shrunk.message == "no answer after 3 s; the process was ended"
    assert {record.verdict for record in of["hangs"]} == {"timed_out"}

    # A person can run each again.
    assert "again: fa2verify check foreign:hangs '{\"head_dim\":8}'" in done.stdout
    for record in died:
        line = Problem.from_dict(record.problem).to_json()
        assert f"again: fa2verify check foreign:segfaults '{line}'" in done.stdout
    assert sorted(path.name for path in suite.report.iterdir()) == ["index.html", "records.jsonl"]


def test_killed_half_way(suite: Any) -> None:
    """SIGKILL to the whole process group: every verdict that was reached is in the report, the line under way aside."""
    with subprocess.Popen(
        suite.command("-n", "2", kernels=["slow"], profile="default"),
        cwd=suite.directory,
        env=suite.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            deadline = time.monotonic() + 120
            while verdicts(suite) < 12:
                assert process.poll() is None, "it ended before it could be killed"
                assert time.monotonic() < deadline
                time.sleep(0.1)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
    reached = verdicts(suite)
    assert reached >= 12
    done = suite.start([str(Path(sys.executable).with_name("fa2verify")), "report", str(suite.report)])
    assert done.returncode == 0, done.stderr
    assert f"1 kernel, {reached} problems, all passed" in done.stdout
    assert len(suite.loaded().records) == reached
    assert len(suite.loaded().losses) <= 2, "at most the line that each worker was writing"
    assert "foreign:slow" in (suite.report / "index.html").read_text()


def verdicts(suite: Any) -> int:
    """Whole lines that hold a verdict, counted without the code that reads them for the report."""
    count = 0
    for path in suite.report.glob(PARTS):
        *whole, _ = path.read_bytes().split(b"\n")
        count += sum(json.loads(line.replace(b"Infinity", b"0"))["kind"] == "verdict" for line in whole)
    return count
