"""The benchmarks as a user starts them, on a CPU: what they leave behind, and what they refuse."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from fa2verify.cli.compare import compare_runs
from fa2verify.reports.benchmark_record import BenchmarkRun, Ceiling, Timing, read

KERNELS = """
import warnings
import torch

def broken(q, k, v, causal=False):
    raise RuntimeError("broken on purpose")

def noisy(q, k, v):
    warnings.warn("at every call", stacklevel=1)
    return q + k + v

def hungry(q, k, v):
    raise torch.OutOfMemoryError("CUDA out of memory.")
"""


ENTRANTS = ["torch-math", "entrants:broken", "entrants:hungry", "entrants:noisy"]
RUN = ["-k", "full", "-W", "error::UserWarning", "--bench-rounds=3", *(f"--kernel={name}" for name in ENTRANTS)]
# In an editable install pytest warns of modules that the run before it, in the same process, has imported.
ALREADY = "ignore:Module already imported:pytest.PytestAssertRewriteWarning"
LATE = ["--kernel=torch-math", "--bench-seconds=0.001", "--bench-dir=late", "-rs", "-o", "filterwarnings=error"]
LATE += ["-W", ALREADY]
ALL = ["fa2verify.benchmarks", "--kernel=torch-math", "--collect-only", "-q"]
REFUSED: list[tuple[list[str], str]] = [
    (["--bench-grid=flash"], "--bench-grid=flash: it needs a GPU, and torch sees none; smoke runs anywhere"),
    (["--bench-grid=flush"], "--bench-grid=flush: there is no such grid; known are flash, triton, gqa, varlen"),
    (["-n", "2"], "-n: benchmarks run one after the other, in one process; leave it out"),
    (["--bench-rounds=2"], "'2' must be a whole number, at least 3"),
    (["--bench-lanes=0"], "'0' must be a whole number, at least 1: processes at a time"),
    (["--bench-seconds=0"], "'0' must be a number of seconds above 0"),
    (["fa2verify.verify"], "fa2verify.benchmarks.bench_kernels: benchmarks and verification are runs of their own"),
]
# One process for all: each would load torch, which takes seconds.
SCRIPT = """
import json, os, sys, tempfile
import pytest

streams = sys.stdout, sys.stderr
for arguments in json.loads(sys.argv[1]):
    # Files, as a user's shell has: pytest captures them in another way than what has no descriptor.
    with tempfile.TemporaryFile("w+") as said:
        kept = [os.dup(stream.fileno()) for stream in streams]
        for stream in streams:
            os.dup2(said.fileno(), stream.fileno())
        status = pytest.main(["-p", "no:cacheprovider", "--device=cpu", "--pyargs", *arguments])
        for stream, descriptor in zip(streams, kept):
            stream.flush()
            os.dup2(descriptor, stream.fileno())
        said.seek(0)
        print(json.dumps([int(status), said.read()]), flush=True)
"""


@dataclass(frozen=True, slots=True)
class Ended:
    status: int
    said: str


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("benchmarks")


@pytest.fixture(scope="module")
def ended(folder: Path) -> list[Ended]:
    """The run, the one that is late, and those that are refused."""
    (folder / "entrants.py").write_text(KERNELS)
    speed = "fa2verify.benchmarks.bench_kernels"
    cases = [*([speed, *arguments] for arguments in (RUN, LATE, *(given for given, _ in REFUSED))), ALL]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(cases)],
        cwd=folder,
        # pytest-benchmark is off in a process that takes itself for one of xdist's workers.
        env={**{k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return [Ended(*json.loads(line)) for line in done.stdout.splitlines()]


def test_a_run_leaves_records_and_pytest_benchmarks_json(ended: list[Ended], folder: Path) -> None:
    done = ended[0]
    assert done.status == 1, done.said
    assert "3 failed, 12 passed" in done.said  # broken fails in each direction, and out of memory is a result
    assert "RuntimeError: broken on purpose" in done.said
    assert re.search(r"^smoke-full\S*: \d+ records in [\d.]+ s, 0 cells left$", done.said, re.MULTILINE), done.said

    run, *lines = read(folder / "build/benchmarks/benchmarks.jsonl")
    assert isinstance(run, BenchmarkRun)
    assert run.device == "cpu"
    timings = {(line.kernel, line.direction): line for line in lines if isinstance(line, Timing)}
    assert {key[0]: line.outcome for key, line in timings.items()} == {
        "torch-math": "measured",
        "entrants:broken": "failed",
        "entrants:hungry": "out_of_memory",
        "entrants:noisy": "measured",
        "standard": "measured",
    }
    matmul = next(line for line in lines if isinstance(line, Ceiling) and line.name == "matmul")

    said = (folder / "build/benchmarks/index.html").read_text(encoding="utf-8")
    assert "Speed: smoke" in said
    assert f"Report: {folder / 'build/benchmarks/index.html'}" in done.said

    kept = json.loads((folder / "build/benchmarks/pytest-benchmark.json").read_text())
    assert "node" not in kept["machine_info"]
    assert len(kept["benchmarks"]) == 9
    for entry in kept["benchmarks"]:
        info = entry["extra_info"]
        line = timings[info["kernel"], info["direction"]]
        assert entry["stats"]["data"] == [ms / 1e3 for ms in line.ms]
        assert info["tflops"] == line.tflops
        assert info["share_of_matmul"] == line.tflops / matmul.rate
        assert info["ratio"] == timings["torch-math", line.direction].median_ms / line.median_ms


def test_a_run_and_itself_compare_as_the_same(ended: list[Ended], folder: Path) -> None:
    assert ended[0].status == 1
    path = str(folder / "build/benchmarks")
    result = CliRunner().invoke(compare_runs, [path, path])
    assert result.exit_code == 0, result.output
    assert (
        "6 cells timed in both, over torch-math: 0 slower, 0 faster" in result.output
    )  # noisy, standard: 3 directions


def test_when_time_is_up_the_rest_is_skipped_with_its_reason(ended: list[Ended], folder: Path) -> None:
    assert ended[1].status == 0
    assert "the time of --bench-seconds was over before smoke-full" in ended[1].said
    assert not (folder / "late").exists() or not list((folder / "late").iterdir())


@pytest.mark.parametrize("case", range(len(REFUSED)), ids=[said[:20] for _, said in REFUSED])
def test_what_the_command_line_refuses(ended: list[Ended], case: int) -> None:
    done = ended[2 + case]
    assert done.status == pytest.ExitCode.USAGE_ERROR
    assert REFUSED[case][1] in done.said


def test_the_package_names_every_benchmark(ended: list[Ended]) -> None:
    assert ended[-1].status == 0, ended[-1].said
    modules = {line.partition(".py::")[0].rpartition("/")[2] for line in ended[-1].said.splitlines() if "::" in line}
    assert modules == {"bench_gpt2", "bench_host", "bench_kernels", "bench_memory"}
