"""What compute-sanitizer finds is the verdict; a stand-in for it that writes logs in its form runs without a GPU."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from fa2verify.cli.main import main
from fa2verify.kernels.problem import Dense, Problem
from fa2verify.kernels.registry import select
from fa2verify.reports.failures import rerun
from fa2verify.reports.record import Record
from fa2verify.verify.trial.sanitizer import Log, Sanitizer, SanitizerMissing, Tool, find

CALL = Problem(lengths=Dense(seqlen_q=3, seqlen_k=4), head_dim=8)

KERNELS = """
import os, time

def quiet(q, k, v):
    if os.environ.get("PYTORCH_NO_CUDA_MEMORY_CACHING") != "1":
        raise RuntimeError("torch's cache hides overruns")
    return q

def overruns(q, k, v):
    os.environ["OVERRUN"] = "1"
    return q

def raises(q, k, v):
    raise ValueError("not today")

def dies(q, k, v):
    os._exit(3)

def hangs(q, k, v):
    time.sleep(60)
"""

# Takes the options as compute-sanitizer does, runs the program in its own process, and writes a log in its form.
STAND_IN = f"""#!{sys.executable}
import os, runpy, sys
arguments = sys.argv[1:]
tool, log = arguments[arguments.index("--tool") + 1], arguments[arguments.index("--log-file") + 1]
assert arguments[arguments.index("--report-api-errors") + 1] == "no"
program = arguments[arguments.index(sys.executable) :]
assert program[1:3] == ["-P", "-m"]
sys.argv = program[3:]
runpy.run_module(program[3], run_name="__main__", alter_sys=True)
found = "OVERRUN" in os.environ
with open(log, "w") as file:
    print("========= COMPUTE-SANITIZER", file=file)
    if found:
        print("========= Invalid __global__ write of size 2 bytes", file=file)
        print("=========     at forward+0x1a0 in forward.cuh:41", file=file)
        print("=========     by thread (3,0,0) in block (0,0,0)", file=file)
        print("=========     Address 0x7f0000000200 is out of bounds", file=file)
        print("=========     Host Frame: somewhere", file=file)
        print("=========", file=file)
    if tool == "racecheck":
        print(f"========= RACECHECK SUMMARY: {{found:d}} hazards displayed ({{found:d}} errors, 0 warnings)", file=file)
    else:
        print(f"========= ERROR SUMMARY: {{found:d}} error{{'' if found else 's'}}", file=file)
"""

Watch = Callable[..., Record]


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    module, stand_in = tmp_path / "foreign.py", tmp_path / "compute-sanitizer"
    module.write_text(KERNELS)
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)

    def watch(function: str, tool: Tool = "memcheck", timeout: float = 60.0, problem: Problem = CALL) -> Record:
        spec = f"{module}:{function}"
        sanitizer = Sanitizer(tool, str(stand_in), (spec,), "cpu", timeout)
        return sanitizer.attempt(select([spec])[0].kernel, problem, "a test")

    return watch


def test_nothing_found_is_passed_where_every_tensor_has_memory_of_its_own(watch: Watch) -> None:
    record = watch("quiet")
    assert (record.verdict, record.rule, record.test) == ("passed", None, "a test"), record.message


def test_a_finding_is_failed(watch: Watch) -> None:
    failed = watch("overruns", "racecheck")
    assert (failed.verdict, failed.rule) == ("failed", "sanitizer racecheck")
    assert failed.message == (
        "1 error, the first: Invalid __global__ write of size 2 bytes; at forward+0x1a0 in forward.cuh:41; "
        "by thread (3,0,0) in block (0,0,0); Address 0x7f0000000200 is out of bounds"
    )


def test_what_a_kernel_raises_is_its_verdict(watch: Watch) -> None:
    record = watch("raises")
    assert (record.verdict, record.rule) == ("crashed", "raised ValueError")
    assert record.message == "ValueError: not today"


def test_a_process_that_dies_has_no_clean_log(watch: Watch) -> None:
    record = watch("dies")
    assert (record.verdict, record.rule) == ("crashed", "sanitizer memcheck")
    assert record.message == "the process left with status 3: it said nothing"


def test_a_hang_ends_with_all_its_processes(watch: Watch) -> None:
    started = time.monotonic()
    record = watch("hangs", timeout=8.0)
    assert time.monotonic() - started < 40
    assert (record.verdict, record.rule) == ("timed_out", "timeout")
    assert record.message == "no answer after 8 s under memcheck; the process was ended"


def test_what_a_kernel_does_not_take_is_not_tried(watch: Watch) -> None:
    record = watch("dies", problem=Problem(causal="top_left"))
    assert record.verdict == "unsupported"
    assert record.reasons


@pytest.mark.parametrize(
    ("log", "errors", "first"),
    [
        ("", None, ""),
        ("========= COMPUTE-SANITIZER\n", None, ""),
        ("chatter\n========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors\n", 0, ""),
        (
            "========= Barrier error detected. Divergent thread(s) in block\n=========\n"
            "========= ERROR SUMMARY: 32 errors",
            32,
            "Barrier error detected. Divergent thread(s) in block",
        ),
        (
            "========= Warning: Race reported between a read and a write\n"
            "========= RACECHECK SUMMARY: 1 hazard displayed (0 errors, 1 warning)",
            0,
            "Warning: Race reported between a read and a write",
        ),
    ],
)
def test_logs_are_read(log: str, errors: int | None, first: str) -> None:
    assert Log.of(log) == Log(errors, first)


def test_a_machine_without_it_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("fa2verify.verify.trial.sanitizer._TOOLKIT", str(tmp_path / "toolkit"))
    with pytest.raises(SanitizerMissing, match="compute-sanitizer is neither on the PATH nor in"):
        find()


def test_the_line_that_reruns_a_finding_watches_again() -> None:
    assert rerun("ours", {}, "sanitizer racecheck") == "fa2verify check --sanitizer=racecheck ours '{}'"
    assert rerun("ours", {}, "R1 out") == "fa2verify check ours '{}'"


def test_check_wants_a_gpu_for_it() -> None:
    done = CliRunner().invoke(main, ["check", "--device=cpu", "--sanitizer=memcheck", "torch-math", "{}"])
    assert done.exit_code == 2
    assert "--sanitizer=memcheck watches kernels on a GPU, and this would run on the cpu" in done.output
