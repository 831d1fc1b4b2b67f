"""A plain function passes in a run of the whole suite, however the work is divided, from an empty folder."""

from collections import Counter
from typing import Any

from made_up import machine

from fa2verify.reports.benchmark_record import HostCost, to_json
from fa2verify.reports.record import Record


def drawn(suite: Any) -> Counter[tuple[str, str]]:
    return Counter((record.test, str(record.problem)) for record in suite.loaded().records)


def test_a_run_its_report_and_its_shards(suite: Any) -> None:
    """The same seed draws the same problems on two workers as in one process, and shards of it are the whole."""
    done = suite.run("-n", "2", "--hypothesis-seed=5", kernels=["right"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 kernel, 51 problems, all passed. Report: report/index.html" in done.stdout
    left_out = "They are tried on a GPU only"
    assert f"problems past 2^31 elements: not tried. {left_out}" in done.stdout
    loaded = suite.loaded()
    assert loaded.losses == ()
    assert left_out in loaded.runs[0].environment["problems past 2^31 elements"]
    assert {record.verdict for record in loaded.records} == {"passed"}
    (run,) = loaded.runs
    assert (run.profile, run.seed, run.device) == ("quick", 5, "cpu")
    assert [kernel.name for kernel in loaded.kernels] == ["foreign:right"]
    page = (suite.report / "index.html").read_text()
    assert "foreign:right" in page
    assert left_out in page
    # Notes, findings and parts are gone: what is left is the report.
    assert sorted(path.name for path in suite.report.iterdir()) == ["index.html", "records.jsonl"]
    whole = drawn(suite)
    assert sum(whole.values()) == 51

    measured = machine(HostCost(subject="x", mode="eager", direction="forward", outcome="measured", us=(9.0,)))
    lines = (*measured.runs, *measured.lines)
    (suite.report / "benchmarks.jsonl").write_text("".join(to_json(line) + "\n" for line in lines))

    # A shard of a small run may never have met some decoy, so its status says nothing here.
    done = suite.run("--shard=1/2", "--hypothesis-seed=5", kernels=["right"])
    assert "0 failed" in done.stdout, done.stdout + done.stderr
    assert suite.loaded().runs[0].environment["shard"] == "1/2"
    page = (suite.report / "index.html").read_text()
    assert "Benchmarks" in page  # left there, they belong to the report
    assert "foreign:right" in page
    first = drawn(suite)
    tests = {test for test, _ in first}
    assert first == Counter({key: count for key, count in whole.items() if key[0] in tests})
    other = suite.run("--shard=2/2", "--collect-only", "-q", kernels=["right"]).stdout.splitlines()
    assert {line for line in other if "::" in line} == {test for test, _ in whole} - tests
    assert 0 < len(tests) < len({test for test, _ in whole})


def test_a_kernel_that_could_not_be_told_from_wrong_ones_has_not_passed(suite: Any) -> None:
    """It passes every problem, and R3 says that no problem could have failed it."""
    done = suite.run(kernels=["OneKey"])
    assert "0 failed" in done.stdout
    records: tuple[Record, ...] = suite.loaded().records
    assert {record.verdict for record in records} == {"passed"}
    assert done.returncode == 1, done.stdout + done.stderr
    assert "one-key: not verified (R3), no problem told it from the decoy 'mean of V'" in done.stdout
