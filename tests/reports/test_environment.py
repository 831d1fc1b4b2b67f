import shlex
from collections.abc import Callable
from typing import Any

from fa2verify.reports.benchmark_record import BenchmarkRun
from fa2verify.reports.benchmark_store import Machine
from fa2verify.reports.environment import repeats, rows
from fa2verify.reports.store import Loaded, RunRecords

Make = Callable[..., Any]


def test_runs_stand_side_by_side(make_run: Make, make_record: Make) -> None:
    cpu = RunRecords(make_run("a", environment={"torch": "2.13"}), (), (make_record(), make_record("unsupported")))
    gpu = RunRecords(
        make_run("b", device="cuda", environment={"torch": "2.13", "cuda": "13.0"}), (), (make_record("crashed"),)
    )
    found = {row.name: (row.values, row.differs) for row in rows(Loaded((cpu, RunRecords(None, (), ()), gpu)))}
    assert found == {
        "run": (("a", "b"), True),
        "started": (("2026-01-02T03:04:05Z",) * 2, False),
        "verdict": (("1 problem, all passed", "1 problem, 1 did not pass"), True),
        "device": (("cpu", "cuda"), True),
        "profile": (("quick", "quick"), False),
        "seed": (("7", "7"), False),
        "torch": (("2.13", "2.13"), False),
        "cuda": (("", "13.0"), True),
    }


def test_runs_of_benchmarks_stand_beside_the_others(make_run: Make, make_record: Make) -> None:
    part = RunRecords(make_run("a", environment={"torch": "2.13"}), (), (make_record(),))
    run = BenchmarkRun(
        id="b",
        started="2026-01-03",
        device="cuda",
        environment={"torch": "2.12", "gpu": "H200"},
        options={"against": "torch-flash", "rounds": "12"},
    )
    found = {row.name: row.values for row in rows(Loaded((part,)), [Machine((run,), ())])}
    assert found == {
        "run": ("a", "b"),
        "started": ("2026-01-02T03:04:05Z", "2026-01-03"),
        "verdict": ("1 problem, all passed", "benchmarks"),
        "device": ("cpu", "cuda"),
        "profile": ("quick", ""),
        "seed": ("7", ""),
        "options": ("", "against torch-flash, rounds 12"),
        "torch": ("2.13", "2.12"),
        "gpu": ("", "H200"),
    }


def test_a_run_that_judged_nothing_did_not_pass(make_run: Make, make_record: Make) -> None:
    idle = RunRecords(make_run(), (), (make_record("unsupported"),))
    assert {row.name: row.values for row in rows(Loaded((idle,)))}["verdict"] == ("nothing judged",)


def test_repeating_lines_are_given_once_and_quoted(make_run: Make) -> None:
    runs = [make_run("a"), make_run("b"), make_run("c", profile="a b", seed=-1)]
    assert repeats(runs) == (
        "pytest -n auto verify --hypothesis-profile=quick --hypothesis-seed=7",
        "pytest -n auto verify '--hypothesis-profile=a b' --hypothesis-seed=-1",
    )
    assert shlex.split(repeats(runs)[1])[4] == "--hypothesis-profile=a b"
