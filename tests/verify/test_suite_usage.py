"""What the command line refuses, as a usage error; and that nobody else's command line knows our options."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# One process for all cases: each needs torch, which takes seconds to load.
SCRIPT = """
import contextlib, io, json, sys
import pytest

for arguments in json.loads(sys.argv[1]):
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = pytest.main(["-p", "no:cacheprovider", *arguments])
    print(json.dumps([int(status), said.getvalue()]), flush=True)
"""

STRANGE = """
[[known]]
name = "a-fault"
says = "It is off."
link = "https://example.org/1"
kernels = ["nobody"]
verdict = "failed"
rules = ["R1"]
smallest = '{}'
where = {head_dim = 64}
"""

CASES: dict[str, tuple[list[str], str]] = {
    "a kernel whose module is missing": (
        ["--kernel=nowhere.to.be.found:kernel"],
        "--kernel: nowhere.to.be.found:kernel: there is no module 'nowhere'",
    ),
    "a kernel whose file is missing": (
        ["--kernel=missing.py:kernel"],
        "--kernel: missing.py:kernel: there is no file ",
    ),
    "an attribute that is missing": (
        ["--kernel=foreign:rihgt"],
        "--kernel: foreign:rihgt: foreign has no attribute 'rihgt'; did you mean 'right'?",
    ),
    "no callable": (["--kernel=foreign:__doc__"], "and cannot be called"),
    "a kernel that fails to import": (
        ["--kernel=broken.py:kernel"],
        "broken.py: ZeroDivisionError: division by zero",
    ),
    "a name that nobody has": (["--kernel=tritno"], "'tritno' is the name of no kernel; known are "),
    "a malformed shard": (["--shard=3/2"], "--shard=3/2: must be i/n with 1 <= i <= n, for example 2/8"),
    "no such device": (["--device=cuda"], "--device=cuda: torch sees no CUDA device here"),
    "a sanitizer without a GPU": (
        ["--sanitizer=memcheck"],
        "--sanitizer=memcheck watches kernels on a GPU, and this run verifies on the cpu",
    ),
    "another sanitizer": (["--sanitizer=valgrind"], "argument --sanitizer: invalid choice: 'valgrind'"),
    "another device": (["--device=tpu"], "argument --device: invalid choice: 'tpu'"),
    "a time-out of nothing": (["--problem-timeout=0"], "'0' must be a number of seconds above 0"),
    "an unknown profile": (["--hypothesis-profile=nightly"], "--hypothesis-profile=nightly: there is no such profile"),
    "a seed that is no number": (["--hypothesis-seed=five"], "--hypothesis-seed=five: must be an integer"),
    "a ledger that is no TOML": (["--ledger=broken.py"], "--ledger: broken.py: Expected newline or end of document"),
    "a ledger about a kernel that there is not": (
        ["--ledger=strange.toml"],
        "--ledger: entry 'a-fault': 'nobody' is the name of no kernel",
    ),
    "a report folder that is a file": (
        ["--report-dir=broken.py"],
        "--report-dir=broken.py: no folder, and none can be made: File exists",
    ),
}


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    directory = tmp_path_factory.mktemp("usage")
    (directory / "broken.py").write_text("kernel = 1 / 0\n")
    (directory / "strange.toml").write_text(STRANGE)
    control = Path(__file__).parents[1] / "control"
    given = [
        ["--pyargs", "fa2verify.verify", f"--report-dir={directory / 'report'}", *args] for args, _ in CASES.values()
    ]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(given)],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(control), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return {name: (status, said) for name, (status, said) in zip(CASES, found, strict=True)}


@pytest.mark.parametrize("case", CASES)
def test_a_usage_error_says_what_was_wrong(refusals: dict[str, tuple[int, str]], case: str) -> None:
    status, said = refusals[case]
    assert CASES[case][1] in said
    assert status == pytest.ExitCode.USAGE_ERROR, said
    assert "INTERNALERROR" not in said
    assert "Traceback" not in said


def test_a_stranger_meets_nothing_of_ours(tmp_path: Path) -> None:
    """Neither options nor imports, even where the folder is called as ours is."""
    (tmp_path / "verify").mkdir()
    (tmp_path / "verify" / "test_mine.py").write_text(
        "import sys\n"
        "def test_mine():\n"
        "    assert 'torch' not in sys.modules\n"
        "    assert [name for name in sys.modules if name.startswith('fa2verify.')] == "
        "['fa2verify.verify', 'fa2verify.verify.entry']\n"
    )

    def pytest_says(*arguments: str) -> Any:
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)

    done = pytest_says("verify")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    assert not (tmp_path / "build").exists()
    refused = pytest_says("verify", "--shard=1/2")
    assert refused.returncode == pytest.ExitCode.USAGE_ERROR
    assert "unrecognized arguments: --shard=1/2" in refused.stderr
    assert "--problem-timeout" not in pytest_says("--help").stdout
